"""Overload: five times of what can be done is asked for, and that much goes on being done.

Twice: where the engines are short, and where the processors before them are. The first is how it is
meant to be, since a GPU costs more than those: twelve answers at a time, each of fifteen tokens at
fifty a second, are some forty answers a second, and two hundred requests a second are little for
two cores, even when the clients run on them as well. The second is what happens to an operator who
says that an engine runs far more at once than the host can carry. There every part is late, and the
clients too: what refusals take is told and not promised.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from tests.chaos.load import Operation
from tests.chaos.open_loop import Made, Plan, Told, offered
from tests.chaos.oracle import settle
from tests.chaos.scale import LONG, scaled
from tests.chaos.stack import NARROW, NARROW_SLOTS, NUMBERED, REPLICAS, Chaos
from tests.platform import User
from vlinders_kit.testing.figures import Figure

pytestmark = pytest.mark.anyio

TIMES = 5
SECONDS = scaled(4.0, 60.0)
CALM_SECONDS = scaled(3.0, 15.0)

AT_ONCE = NARROW_SLOTS * REPLICAS["worker"]
KEEP_ALL_BUSY = AT_ONCE + REPLICAS["worker"]
"""Callers: one more for each worker than it runs at once."""


@dataclass(frozen=True)
class Crowded:
    """What was told to callers who took turns, to the crowd, and to callers after it."""

    first: Told
    calm: Told
    crowd: Told
    after: Told

    @property
    def peak(self) -> float:
        return self.calm.goodput()

    @property
    def goodput(self) -> float:
        """As a share of the peak, once the crowd is there."""
        return self.crowd.goodput(since=SECONDS / 6) / self.peak

    @property
    def answers(self) -> int:
        return sum(len(told.answers()) for told in (self.first, self.calm, self.crowd, self.after))

    def note(self, figure: Figure, what: str, *, late: str) -> None:
        refusals, answers = _p99(self.crowd.refusals()), _p99(self.crowd.answers())
        condition = f"{TIMES} × {self.peak:.0f} streams/s, {SECONDS:.0f} s"
        rows: Sequence[tuple[str, object, str, str]] = (
            ("goodput", 100 * self.goodput, "% of the peak", "≥ 90 %"),
            ("refusals, p99", 1_000 * refusals, "ms", late),
            ("answers, p99", answers / _p99(self.calm.answers()), "× calm", ""),
            ("other than 200, 429 and 503", len(_odd(self.crowd)), "", "0"),
            ("refused right after", len(self.after.refusals()), "", "0"),
        )
        for name, value, unit, must in rows:
            figure(f"{what} are short: {name}", value, unit, must=must, condition=condition)


async def test_five_times_of_what_engines_can_do_leaves_what_they_can_do(
    chaos: Chaos, user: User, figure: Figure
) -> None:
    body = Operation(0, NARROW, stream=True).body(max_tokens=15, rate=50, at_once=AT_ONCE)
    seen = await _crowded(chaos, user, body, together=KEEP_ALL_BUSY)

    seen.note(figure, "engines", late="≤ 100 ms")
    refusals = seen.crowd.refusals()
    assert not _odd(seen.crowd)
    assert len(refusals) > len(seen.crowd.answers())
    assert all(1 <= each.retry_after <= 30 for each in refusals)
    assert set(seen.after.statuses()) == {200}
    assert seen.goodput >= (0.9 if LONG else 0.7)
    assert _p99(refusals) <= 0.3
    await _nothing_but_answers_is_charged(chaos, user, seen)


@pytest.mark.skipif(not LONG, reason="keeps all processors busy for a minute: `make chaos`")
async def test_five_times_of_what_processors_can_do_leaves_what_they_can_do(
    chaos: Chaos, user: User, figure: Figure
) -> None:
    body = Operation(0, NUMBERED, stream=True).body(max_tokens=60, rate=1_000)
    seen = await _crowded(chaos, user, body, together=32)

    seen.note(figure, "processors", late="")
    assert not _odd(seen.crowd)
    assert all(1 <= each.retry_after <= 30 for each in seen.crowd.refusals())
    assert set(seen.after.statuses()) == {200}
    assert seen.goodput >= 0.7
    await _nothing_but_answers_is_charged(chaos, user, seen)


async def _crowded(chaos: Chaos, user: User, body: dict[str, object], together: int) -> Crowded:
    host, _, port = chaos.stack.url.removeprefix("http://").partition(":")
    key = (await user.key())["key"]

    async def told(seconds: float, *, rate: float = 0.0, together: int = 1) -> Told:
        return await offered(Plan(host, int(port), key, [body], rate, together, seconds))

    first = await told(1.0)
    calm = await told(CALM_SECONDS, together=together)
    crowd = await told(SECONDS, rate=TIMES * calm.goodput())
    return Crowded(first, calm, crowd, await told(2.0, together=AT_ONCE))


async def _nothing_but_answers_is_charged(chaos: Chaos, user: User, seen: Crowded) -> None:
    await settle(chaos, user)
    assert int((await user.data("GET", "/v1/wallet"))["held_nanos"]) == 0
    assert len(await user.every("/v1/usage/records")) == seen.answers


def _odd(told: Told) -> list[Made]:
    return [each for each in told.made if each.status not in (200, 429, 503)]


def _p99(made: Sequence[Made]) -> float:
    return statistics.quantiles([each.seconds for each in made], n=100)[98]
