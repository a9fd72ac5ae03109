"""Admission: which bucket a request counts in, by dialect and by whoever makes it."""

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import httpx
import pytest

from vlinders.auth.v1.accounts_pb2 import Account
from vlinders.auth.v1.identity_pb2 import IntrospectResponse
from vlinders.auth.v1.sessions_pb2 import SignIn
from vlinders_gateway.admission import Admission
from vlinders_gateway.bodies import Limits as BodyLimits
from vlinders_gateway.dialects import CANONICAL, DIALECTS, Dialect
from vlinders_gateway.exchange import Exchange
from vlinders_gateway.operations import named
from vlinders_gateway.rates import HOUR, UNLIMITED, Rate, Rates
from vlinders_gateway.refusals import RateLimited
from vlinders_gateway.testing import NO_RATES, Running, Script, bearer, gateway, token_keys
from vlinders_kit.errors import Unavailable
from vlinders_kit.testing import a_user, an_api_key

pytestmark = pytest.mark.anyio

PLANS = {"free": Rate(3), "operator": UNLIMITED}
RATES = NO_RATES | {
    "vlinders": Rates(Rate(3), anonymous=Rate(4), plans=PLANS, writes=Rate(2)),
    "maas": Rates(Rate(5), anonymous=Rate(2)),
    "massrouter": Rates(Rate(6, HOUR), anonymous=Rate(2, HOUR)),
}
ME = {
    "vlinders": "/v1/users/me",
    "maas": "/maas/api/v1/users/profile",
    "massrouter": "/massrouter/api/v1/users/me",
}
KEYS = "/.well-known/jwks.json"


@pytest.fixture
async def running(script: Script, valkey: str) -> AsyncIterator[Running]:
    script.answers["GetMyAccount"] = Account(id="user_1", number=1)
    script.answers["Login"] = SignIn(token_type="bearer")
    token_keys(script)
    async with gateway(script, valkey, rates=RATES) as made:
        yield made


async def asked(
    running: Running, path: str, times: int, *, headers: Mapping[str, str]
) -> list[httpx.Response]:
    return [await running.http.get(path, headers=headers) for _ in range(times)]


def statuses(answers: list[httpx.Response]) -> list[int]:
    return [answer.status_code for answer in answers]


async def test_a_client_has_a_bucket_in_each_dialect_with_the_limit_and_window_of_that(
    running: Running,
) -> None:
    headers = bearer(running.script.admit(a_user(plan="free")))
    for dialect, limit, window in (("vlinders", 3, 60), ("maas", 5, 60), ("massrouter", 6, 3600)):
        answers = await asked(running, ME[dialect], limit + 1, headers=headers)

        assert statuses(answers) == [200] * limit + [429]
        left = [int(answer.headers["x-ratelimit-remaining"]) for answer in answers]
        assert left == [*range(limit - 1, -1, -1), 0]
        assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {str(limit)}
        until = int(answers[-1].headers["x-ratelimit-reset"]) - time.time()
        wait = answers[-1].headers["retry-after"]
        assert wait.isdigit()
        for seconds in (int(wait), until):
            assert window - 30 <= seconds <= window + 2


async def test_a_key_has_the_limit_that_its_maker_gave_it_an_hour(running: Running) -> None:
    who = an_api_key(plan="operator", scopes=["all:read"])
    keys = [
        running.script.admit(
            an_api_key(account_id=who.account_id, scopes=["all:read"], plan="operator", **own)
        )
        for own in ({"hourly_limit": 2}, {"hourly_limit": 1}, {})
    ]
    found = [await asked(running, ME["massrouter"], 7, headers=bearer(key)) for key in keys]

    for answers, limit in zip(found, (2, 1, 6), strict=True):
        assert statuses(answers) == [200] * limit + [429] * (7 - limit)
        assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {str(limit)}
        assert int(answers[-1].headers["retry-after"]) > 3000


async def test_all_sessions_of_an_account_share_its_bucket(running: Running) -> None:
    one, other = a_user(), a_user()
    other.account_id = one.account_id
    shown = []
    for who in (one, other):
        running.script.credentials[who.session_id] = IntrospectResponse(caller=who)
        shown.append(bearer(token_keys(running.script).sign(who)))

    answers = [
        (await running.http.get(ME["maas"], headers=shown[number % 2])).status_code
        for number in range(6)
    ]

    assert answers == [200] * 5 + [429]


@pytest.mark.parametrize(("dialect", "window"), [("maas", 60), ("massrouter", 3600)])
async def test_what_comes_without_a_valid_credential_counts_under_its_address(
    running: Running, dialect: str, window: int
) -> None:
    """Sign-ins, unknown routes and wrong credentials alike."""
    mount = ME[dialect].removesuffix("/users/profile").removesuffix("/users/me")
    login = "/auth/token" if dialect == "maas" else "/auth/login"
    headers = {"X-Forwarded-For": "203.0.113.9"}
    form = {"username": "a@example.com", "email": "a@example.com", "password": "secret-enough"}
    post, user = running.http.post, bearer(running.script.user_key())

    first = await post(mount + login, json=form, headers=headers)
    second = await running.http.get(f"{mount}/nowhere", headers=headers)
    wrong = await running.http.get(ME[dialect], headers=headers | bearer("mr_sk_wrong"))
    again = await post(mount + login, json=form, headers=headers)
    elsewhere = await post(mount + login, json=form, headers={"X-Forwarded-For": "203.0.113.8"})
    known = await running.http.get(ME[dialect], headers=headers | user)

    assert (first.status_code, second.status_code) == (200, 404)
    assert (wrong.status_code, again.status_code) == (429, 429)
    assert int(again.headers["retry-after"]) > window - 30
    assert again.headers["x-ratelimit-limit"] == "2"
    assert (elsewhere.status_code, known.status_code) == (200, 200)


async def test_public_writes_count_by_address_apart_where_a_dialect_says_so(
    running: Running,
) -> None:
    headers = {"X-Forwarded-For": "203.0.113.7"} | bearer(running.script.user_key())
    form = {"email": "a@example.com", "password": "secret-enough"}
    writes = [
        (await running.http.post("/v1/auth/login", json=form, headers=headers)).status_code
        for _ in range(3)
    ]
    stranger = {"X-Forwarded-For": "203.0.113.7"}

    assert writes == [200, 200, 429]
    assert statuses(await asked(running, KEYS, 5, headers=stranger)) == [200] * 4 + [429]


async def test_public_reads_count_under_whoever_shows_a_valid_credential(running: Running) -> None:
    address = {"X-Forwarded-For": "203.0.113.6"}
    known = address | bearer(running.script.admit(a_user(plan="free")))
    wrong = address | bearer("vlinders_sk_live_wrong")
    await asked(running, KEYS, 5, headers=address)

    answers = await asked(running, KEYS, 4, headers=known)

    assert statuses(answers) == [200, 200, 200, 429]
    assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {"3"}
    assert statuses(await asked(running, KEYS, 1, headers=wrong)) == [429]


async def test_public_reads_are_answered_without_auth(running: Running) -> None:
    class Down(Unavailable):
        """Down."""

    key = running.script.user_key()
    for digest in running.script.credentials:
        running.script.credentials[digest] = Down()
    headers = {"X-Forwarded-For": "203.0.113.5"} | bearer(key)

    answers = await asked(running, KEYS, 5, headers=headers)

    assert statuses(answers) == [200] * 4 + [429]


async def test_calls_of_models_are_counted_in_addition(running: Running) -> None:
    rates = RATES | {"vlinders": replace(RATES["vlinders"], calls=Rate(1))}
    admission = Admission(running.identities, running.limits, rates)
    key = running.script.admit(an_api_key(plan="free"))
    chat, models = named("CreateChatCompletion"), named("ListModels")

    def exchange() -> Exchange:
        made = Exchange({}, CANONICAL, BodyLimits())
        made.authorization = f"Bearer {key}".encode()
        return made

    await admission.admit(exchange(), chat)
    assert admission.at_once(exchange(), chat) is None
    with pytest.raises(RateLimited) as refused:
        await admission.admit(exchange(), chat)
    await admission.admit(exchange(), models)
    with pytest.raises(RateLimited) as over:
        await admission.admit(exchange(), models)

    assert (refused.value.limit, over.value.limit) == (1, 3)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_a_service_is_told_which_dialect_a_call_came_by(
    running: Running, dialect: Dialect
) -> None:
    places = {each.name: path for each, _, path in dialect.places()}
    form = {"username": "a@example.com", "email": "a@example.com", "password": "secret-enough"}
    mount, headers = dialect.mounts[0], bearer(running.script.user_key())

    await running.http.get(mount + places["GetMyAccount"], headers=headers)
    await running.http.post(mount + places["Login"], json=form)

    told = {name: caller.dialect for name, _, caller in running.script.asked}
    assert (told["GetMyAccount"], told["Login"]) == (dialect.name, dialect.name)
