"""More sign-ins at once than passwords can be checked: who is let in is served, others are told."""

import asyncio
import time
from collections import Counter

import httpx

from tests.chaos.scale import scaled
from tests.chaos.stack import Chaos
from tests.platform import PASSWORD, User
from vlinders_kit.testing.figures import Figure

LOGINS = scaled(80, 400)


async def test_of_many_sign_ins_at_once_none_that_is_let_in_fails(
    chaos: Chaos, user: User, figure: Figure
) -> None:
    form = {"email": user.email, "password": PASSWORD}
    others = [await chaos.platform.sign_up() for _ in range(scaled(4, 20))]
    forms = [{**form, "email": it.email} for it in (user, *others)]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=chaos.stack.url, limits=limits, timeout=60) as http:

        async def sign_in(number: int) -> tuple[httpx.Response, float]:
            began = time.monotonic()
            answer = await http.post("/v1/auth/login", json=forms[number % len(forms)])
            return answer, time.monotonic() - began

        answers = await asyncio.gather(*(sign_in(number) for number in range(LOGINS)))

    ends = Counter(answer.status_code for answer, _ in answers)
    slowest = max(took for answer, took in answers if answer.status_code == 200)
    figure("sign-ins at once, let in", ends[200], condition=f"of {LOGINS}, the rest 503")
    figure("slowest that was let in", slowest, "s")
    assert set(ends) <= {200, 503}
    assert ends[200] > 0
    assert all(answer.headers["Retry-After"] for answer, _ in answers if answer.status_code == 503)
