"""Overload: five times of what can be done is asked for, and that much goes on being done.

What is short here are the engines, as it is where a GPU costs more than the processors before it:
twelve answers at a time, each of fifteen tokens at fifty a second, are some forty answers a second.
Two hundred requests a second are little for two cores, even when the clients run on them as well.
"""

import statistics
from collections.abc import Sequence

import pytest

from tests.chaos.load import Operation
from tests.chaos.open_loop import Made, Plan, Told, offered
from tests.chaos.oracle import settle
from tests.chaos.scale import LONG, scaled
from tests.chaos.stack import NARROW, NARROW_SLOTS, REPLICAS, Chaos
from tests.platform import User
from vlinders_kit.testing.figures import Figure

pytestmark = pytest.mark.anyio

TIMES = 5
SECONDS = scaled(4.0, 60.0)
CALM_SECONDS = scaled(3.0, 15.0)

AT_ONCE = NARROW_SLOTS * REPLICAS["worker"]
CALLERS = AT_ONCE + REPLICAS["worker"]
"""They keep every engine busy: there is one more for each worker than it runs at once."""
ASKED = {"max_tokens": 15, "rate": 50, "at_once": AT_ONCE}


async def test_five_times_of_what_engines_can_do_leaves_what_they_can_do(
    chaos: Chaos, user: User, figure: Figure
) -> None:
    host, _, port = chaos.stack.url.removeprefix("http://").partition(":")
    key = (await user.key())["key"]
    body = Operation(0, NARROW, stream=True).body(**ASKED)

    async def told(seconds: float, *, rate: float = 0.0, together: int = 1) -> Told:
        return await offered(Plan(host, int(port), key, body, rate, together, seconds))

    first = await told(1.0)
    calm = await told(CALM_SECONDS, together=CALLERS)
    peak = calm.goodput()
    crowd = await told(SECONDS, rate=TIMES * peak)
    after = await told(2.0, together=AT_ONCE)

    goodput, refusals = crowd.goodput(since=SECONDS / 6), crowd.refusals()
    late, slower = _p99(refusals), _p99(crowd.answers()) / _p99(calm.answers())
    condition = f"{TIMES} × {peak:.0f} streams/s, {SECONDS:.0f} s, engines are short"
    rows: Sequence[tuple[str, object, str, str]] = (
        ("goodput", 100 * goodput / peak, "% of the peak", "≥ 90 %"),
        ("refusals, p99", 1_000 * late, "ms", "≤ 100 ms"),
        ("answers, p99", slower, "× calm", "≤ 2 ×"),
        ("refused right after", len(after.refusals()), "", "0"),
    )
    for name, value, unit, must in rows:
        figure(f"overload: {name}", value, unit, must=must, condition=condition)

    assert set(crowd.statuses()) <= {200, 429, 503}
    assert len(refusals) > len(crowd.answers())
    assert all(1 <= each.retry_after <= 30 for each in refusals)
    assert set(after.statuses()) == {200}
    assert goodput >= (0.9 if LONG else 0.7) * peak
    assert late <= 0.3
    await settle(chaos, user)
    assert int((await user.data("GET", "/v1/wallet"))["held_nanos"]) == 0
    answers = [each for part in (first, calm, crowd, after) for each in part.answers()]
    assert len(await user.every("/v1/usage/records")) == len(answers)


def _p99(made: Sequence[Made]) -> float:
    return statistics.quantiles([each.seconds for each in made], n=100)[98]
