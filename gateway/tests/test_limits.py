"""Limits: exact in every window, over all gateways, with Redis and without."""

import asyncio
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from vlinders_gateway import limits as module
from vlinders_gateway.limits import Limits, network_of
from vlinders_gateway.rates import HOUR, MINUTE, UNLIMITED, Rate, Rates, slowest
from vlinders_gateway.shared_log import Ask, SharedLog, SharedLogAway, Told, grain_of
from vlinders_kit.clock import ManualClock
from vlinders_kit.testing.figures import Figure

pytestmark = pytest.mark.anyio

PATIENT = 5.0


@asynccontextmanager
async def gateways(valkey: str, count: int = 1) -> AsyncIterator[list[Limits]]:
    """Gateways that share one Redis and know of each other."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            shared = SharedLog(valkey, patience=PATIENT)
            stack.push_async_callback(shared.close)
            made.append(Limits(shared, gateways=count))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(limits.run()) for limits in made]
            yield made
            for task in tasks:
                task.cancel()


async def test_exactly_the_limit_is_admitted_and_told_so(valkey: str) -> None:
    async with gateways(valkey) as (limits,):
        verdicts = [await limits.take("a", Rate(10)) for _ in range(12)]

    assert [verdict.remaining for verdict in verdicts] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0]
    assert [verdict.wait for verdict in verdicts[:10]] == [0] * 10
    assert all(1 <= verdict.wait <= 60 for verdict in verdicts[10:])
    assert {verdict.limit for verdict in verdicts} == {10}
    resets = [verdict.reset for verdict in verdicts]
    assert resets == sorted(resets)


@pytest.mark.parametrize("rate", [Rate(100), Rate(1000), Rate(1000, HOUR), Rate(4000, HOUR)])
@pytest.mark.parametrize("count", [1, 4, 8])
async def test_at_once_over_all_gateways_it_is_exactly_the_limit(
    valkey: str, count: int, rate: Rate
) -> None:
    async with gateways(valkey, count) as made:
        verdicts = await asyncio.gather(
            *(made[number % count].take("a", rate) for number in range(rate.limit * 2))
        )

    admitted = sum(1 for verdict in verdicts if not verdict.wait)
    assert rate.limit * 0.99 <= admitted <= rate.limit
    assert all(verdict.wait <= rate.window for verdict in verdicts)


@pytest.mark.parametrize(("count", "limit"), [(1, 400), (4, 2000), (8, 400), (8, 2000)])
async def test_over_all_gateways_every_window_has_the_limit_within_one_percent(
    valkey: str, count: int, limit: int
) -> None:
    """Clients that ask all gateways without a pause, for two windows and a half."""
    loop, window, admitted = asyncio.get_running_loop(), 1.0, 0
    begun = loop.time()

    async def ask(limits: Limits) -> None:
        nonlocal admitted
        while loop.time() < begun + 2.5 * window:
            if (await limits.take("a", Rate(limit, window))).wait:
                await asyncio.sleep(0.002)
            else:
                admitted += 1

    async with gateways(valkey, count) as made, asyncio.TaskGroup() as group:
        for number in range(16):
            group.create_task(ask(made[number % count]))

    windows = int((loop.time() - begun) / window)
    assert windows * limit * 0.99 <= admitted <= (windows + 1) * limit * 1.01


async def test_principals_do_not_share_their_limits(valkey: str) -> None:
    async with gateways(valkey) as (limits,):
        for name in ("a", "b"):
            assert [(await limits.take(name, Rate(2))).wait == 0 for _ in range(3)] == [
                True,
                True,
                False,
            ]


async def test_a_larger_plan_opens_at_once(valkey: str) -> None:
    async with gateways(valkey) as (limits,):
        for _ in range(11):
            last = await limits.take("a", Rate(10))
        assert last.wait
        assert (await limits.take("a", Rate(100))).remaining == 89


async def test_the_window_slides(valkey: str) -> None:
    """Two halves of a second: what was taken in the first is free again before the second's."""
    async with gateways(valkey) as (limits,):
        begun = asyncio.get_running_loop().time()
        admitted = []
        while (now := asyncio.get_running_loop().time()) - begun < 3.0:
            # The wait that a client is told is in whole seconds; here it asks all the time.
            limits._buckets.clear()
            if not (await limits.take("a", Rate(20, 1.0))).wait:
                admitted.append(now)

    windows = [sum(1 for at in admitted if start <= at < start + 1.0) for start in admitted]
    assert max(windows) <= 20 + 1  # the clocks of Redis and this loop are read a moment apart
    assert len(admitted) >= 59


class FakeLog:
    """What Redis's script does, on a clock that stands; away when told so."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.entries: dict[str, list[list[int]]] = {}
        self.calls = 0
        self.away = False

    async def take(self, asks: Any) -> list[Told]:
        await asyncio.sleep(0)
        if self.away:
            raise SharedLogAway
        self.calls += 1
        return [self._take(ask) for ask in asks]

    def _take(self, ask: Ask) -> Told:
        now, (limit, window) = int(self.clock.monotonic() * 1000), ask.rate
        rows = self.entries.setdefault(ask.bucket, [])
        unspent = ask.unspent
        for row in reversed(rows):
            back = min(unspent, row[1]) if row[0] == ask.taken_at else 0
            row[1] -= back
            unspent -= back
        rows[:] = [row for row in rows if row[0] > now - window * 1000]
        used = sum(n for _, n in rows)
        granted = min(ask.want, max(0, limit - used))
        if granted and rows and rows[-1][1] and rows[-1][1] + granted <= grain_of(limit):
            rows[-1][1] += granted
        elif granted:
            rows.append([now, granted])
        oldest, newest = (rows[0][0], rows[-1][0]) if rows else (now, now)
        frees, full = oldest / 1000 + window - now / 1000, newest / 1000 + window
        return Told(granted, used + granted, newest, frees, full)

    async def beat(self, gateway: str) -> int:
        if self.away:
            raise SharedLogAway
        return 1

    async def leave(self, gateway: str) -> None:
        pass


@asynccontextmanager
async def on_a_clock(count: int, clock: ManualClock) -> AsyncIterator[tuple[list[Limits], FakeLog]]:
    log = FakeLog(clock)
    made = [Limits(log, gateways=count, clock=clock) for _ in range(count)]  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(limits._ask()) for limits in made]
        yield made, log
        for task in tasks:
            task.cancel()


steps = st.lists(
    st.tuples(st.sampled_from([0.0, 0.01, 0.1, 0.3, 1.0, 5.0, 29.9, 59.7]), st.integers(1, 60)),
    min_size=1,
    max_size=30,
)


@given(
    steps=steps,
    limit=st.sampled_from([1, 10, 100, 1000, 3000]),
    window=st.sampled_from([MINUTE, HOUR]),
    count=st.sampled_from([1, 4]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_in_no_window_are_there_more_than_one_percent_over(
    steps: list[tuple[float, int]], limit: int, window: float, count: int
) -> None:
    clock, scale = ManualClock(), window / MINUTE
    admitted: list[float] = []
    async with on_a_clock(count, clock) as (made, _):
        for pause, burst in steps:
            clock.advance(pause * scale)
            verdicts = [
                await made[n % count].take("a", Rate(limit, window))
                for n in range(burst * max(1, limit // 1000))
            ]
            admitted += [clock.monotonic() for verdict in verdicts if not verdict.wait]

    assert most_in(window, admitted) <= limit + limit // 100


def most_in(window: float, admitted: list[float]) -> int:
    """The most of these moments that lie in any window; they are in order."""
    return max(
        (bisect_left(admitted, at + window) - place for place, at in enumerate(admitted)), default=0
    )


@pytest.mark.parametrize("count", [1, 4, 8])
async def test_of_a_large_limit_what_is_written_down_together_is_within_one_percent(
    count: int,
) -> None:
    """The worst for the log: entries that are filled slowly, and taken again as soon as they go."""
    clock, window, limit = ManualClock(), HOUR, 4_000
    admitted: list[float] = []
    async with on_a_clock(count, clock) as (made, log):

        async def ask() -> bool:
            passes = not (await made[len(admitted) % count].take("a", Rate(limit, window))).wait
            if passes:
                admitted.append(clock.monotonic())
            return passes

        for _ in range(limit):
            clock.advance(window / limit)
            await ask()
        for _ in range(2 * limit):
            clock.advance(window / limit / 2)
            while await ask():
                pass
        entries = len(log.entries["a"])

    assert limit * 0.99 <= most_in(window, admitted) <= limit * 1.01
    assert entries <= 2_100


@pytest.mark.parametrize("limit", [1000, 3000])
@pytest.mark.parametrize("count", [1, 4])
async def test_slices_that_are_spent_late_move_the_window_by_one_percent_at_most(
    count: int, limit: int
) -> None:
    """The worst that slices can do: taken at one moment, spent as late as they may be."""
    clock, rate = ManualClock(), Rate(limit)
    late = 0
    async with on_a_clock(count, clock) as (made, _):
        for number in range(limit // 2):
            assert not (await made[number % count].take("a", rate)).wait
        clock.advance(module.SLICE_SECONDS - 0.001)
        for limits in made:
            while limits.at_once("a", rate) is not None:
                late += 1
        clock.advance(60 - module.SLICE_SECONDS + 0.001)
        verdicts = [await made[n % count].take("a", rate) for n in range(limit + 100)]

    assert late + sum(1 for verdict in verdicts if not verdict.wait) <= limit * 1.01


@given(bursts=st.lists(st.integers(1, 300), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
async def test_a_client_within_its_limit_is_never_refused(bursts: list[int]) -> None:
    clock = ManualClock()
    async with on_a_clock(1, clock) as (made, _):
        for burst in bursts:
            for _ in range(min(burst, 100)):
                assert not (await made[0].take("a", Rate(100))).wait
            clock.advance(60)


async def test_most_requests_of_a_busy_client_cost_no_call() -> None:
    clock = ManualClock()
    async with on_a_clock(1, clock) as (made, log):
        for _ in range(800):
            clock.advance(0.01)
            assert not (await made[0].take("a", Rate(1000))).wait
        assert log.calls < 400


async def test_who_is_over_the_limit_costs_no_call() -> None:
    clock = ManualClock()
    async with on_a_clock(1, clock) as (made, log):
        for _ in range(1_000):
            await made[0].take("a", Rate(10))
        assert log.calls == 11
        assert made[0].closed("a")


async def test_what_a_gateway_did_not_spend_is_there_for_the_others() -> None:
    clock = ManualClock()
    async with on_a_clock(2, clock) as (made, log):
        one, other = made
        for _ in range(100):
            await one.take("a", Rate(1000))
        clock.advance(module.SLICE_SECONDS)
        giving = asyncio.create_task(one._give_back())
        while log.entries and sum(n for _, n in log.entries["a"]) > 100:
            await asyncio.sleep(0.01)
        giving.cancel()

        admitted = [await other.take("a", Rate(1000)) for _ in range(901)]

    assert sum(1 for verdict in admitted if not verdict.wait) == 900


async def test_without_redis_each_gateway_keeps_its_share_and_nobody_fails() -> None:
    clock = ManualClock()
    async with on_a_clock(4, clock) as (made, log):
        log.away = True
        admitted = 0
        for limits in made:
            verdicts = [await limits.take("a", Rate(100)) for _ in range(50)]
            admitted += sum(1 for verdict in verdicts if not verdict.wait)
            assert limits.away
    assert admitted == 100


@pytest.mark.parametrize("rate", [Rate(1000, HOUR), Rate(100_000, HOUR)])
async def test_a_share_of_a_large_limit_is_kept_to_one_percent_and_by_few_moments(
    rate: Rate,
) -> None:
    clock, share = ManualClock(), rate.limit // 4
    async with on_a_clock(4, clock) as (made, log):
        log.away = True
        first = []
        for _ in range(2 * share):
            clock.advance(0.001)
            first.append(await made[0].take("a", rate))
        moments = made[0]._buckets["a"].admitted
        clock.advance(rate.window - 1.5 * share * 0.001)  # half of them are a window ago
        then = [await made[0].take("a", rate) for _ in range(share)]

    assert sum(1 for verdict in first if not verdict.wait) == share
    assert len(moments) <= 200
    again = sum(1 for verdict in then if not verdict.wait)
    assert abs(again - share / 2) <= rate.limit / 100


async def test_what_was_admitted_before_redis_went_counts_against_the_share() -> None:
    clock = ManualClock()
    async with on_a_clock(1, clock) as (made, log):
        for _ in range(8):
            await made[0].take("a", Rate(10))
        log.away = True
        verdicts = [await made[0].take("a", Rate(10)) for _ in range(5)]
    assert [verdict.wait == 0 for verdict in verdicts] == [True, True, False, False, False]


async def test_a_share_slides_too() -> None:
    clock = ManualClock()
    async with on_a_clock(1, clock) as (made, log):
        log.away = True
        for _ in range(10):
            await made[0].take("a", Rate(10))
        refused = await made[0].take("a", Rate(10))
        clock.advance(refused.wait)
        assert not (await made[0].take("a", Rate(10))).wait


async def test_redis_that_comes_back_is_believed_again_by_itself(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BEAT_SECONDS", 0.01)
    clock = ManualClock()
    async with on_a_clock(1, clock) as (made, log):
        log.away = True
        beating = asyncio.create_task(made[0]._beat())
        await until(lambda: made[0].away)
        assert not (await made[0].take("a", Rate(10))).wait
        log.away = False
        await until(lambda: not made[0].away)
        beating.cancel()
        calls = log.calls
        assert not (await made[0].take("a", Rate(10))).wait
        assert log.calls == calls + 1


async def test_an_unreachable_redis_is_given_up_on_at_once() -> None:
    log = SharedLog("redis://127.0.0.1:1/0")
    with pytest.raises(SharedLogAway):
        await log.take([Ask("a", Rate(10), 1)])
    await log.close()


async def test_a_silent_redis_is_given_up_on(valkey: str) -> None:
    async def silent(reader: Any, writer: Any) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    log = SharedLog(f"redis://127.0.0.1:{port}/0")
    async with server:
        with pytest.raises(SharedLogAway):
            await log.beat("gw_1")
        await log.close()


async def test_gateways_are_counted_while_they_beat(valkey: str) -> None:
    log = SharedLog(valkey, patience=PATIENT)
    assert await log.beat("gw_1") == 1
    assert await log.beat("gw_2") == 2
    assert await log.beat("gw_1") == 2
    await log.leave("gw_2")
    assert await log.beat("gw_1") == 1
    await log.close()


async def test_an_unspent_part_is_taken_off_the_log(valkey: str) -> None:
    log, rate = SharedLog(valkey, patience=PATIENT), Rate(10)
    (first,) = await log.take([Ask("a", rate, 5)])
    (second,) = await log.take([Ask("a", rate, 1, first.entered, 4)])
    assert (first.used, second.used) == (5, 2)
    (third,) = await log.take([Ask("a", rate, 0, first.entered - 1, 3)])  # nobody's slice
    assert third.used == 2
    await log.close()


async def test_what_was_taken_a_window_ago_is_free_again(valkey: str) -> None:
    log, rate = SharedLog(valkey, patience=PATIENT), Rate(10, 0.2)
    (first,) = await log.take([Ask("a", rate, 10)])
    refused = []
    while not (again := (await log.take([Ask("a", rate, 10)]))[0]).granted:
        refused.append(again)
    await log.close()

    assert again.granted == 10
    assert again.entered >= first.entered + 200
    assert all(0 < told.frees <= 0.2 for told in refused)


async def test_what_is_written_down_together_is_given_back_from_it(valkey: str) -> None:
    log, rate = SharedLog(valkey, patience=PATIENT), Rate(10_000, HOUR)
    (first, second) = await log.take([Ask("a", rate, 4), Ask("a", rate, 5)])
    assert (first.entered, second.used) == (second.entered, 9)
    (third,) = await log.take([Ask("a", rate, 8, second.entered, 3)])
    assert third.used == 14
    async with Redis.from_url(valkey) as redis:
        rows = await redis.lrange("vlinders:limit:{a}", 0, -1)
    assert [row.split()[1] for row in rows] == [b"6", b"8"]  # together more than a thousandth
    (fourth,) = await log.take([Ask("a", rate, 0, second.entered, 6)])
    assert fourth.used == 8
    await log.close()


async def test_a_log_of_a_large_limit_stays_small(valkey: str, figure: Figure) -> None:
    log, rate = SharedLog(valkey, patience=PATIENT), Rate(100_000, HOUR)
    granted = 0
    for _ in range(101):
        granted += sum(told.granted for told in await log.take([Ask("a", rate, 7)] * 150))
    await log.close()

    async with Redis.from_url(valkey) as redis:
        entries = await redis.llen("vlinders:limit:{a}")
        memory = await redis.memory_usage("vlinders:limit:{a}")
    figure("log of 100,000 requests", memory / 1024, "KB", must="≤ 64 KB")
    assert granted == rate.limit
    assert entries <= 2_000


async def test_a_sum_that_redis_has_lost_is_counted_again(valkey: str) -> None:
    log, rate = SharedLog(valkey, patience=PATIENT), Rate(10)
    await log.take([Ask("a", rate, 7)])
    async with Redis.from_url(valkey) as redis:
        await redis.delete("vlinders:limit:{a}:sum")
    (told,) = await log.take([Ask("a", rate, 7)])
    assert (told.granted, told.used) == (3, 10)
    await log.close()


def test_an_unknown_plan_has_the_smallest_limit() -> None:
    plans = {"free": Rate(10), "pro": Rate(100), "operator": UNLIMITED, "batch": Rate(100, HOUR)}
    rates = Rates(slowest(plans), anonymous=Rate(100), plans=plans)

    found = [rates.of(plan, None) for plan in ("pro", "operator", "gold")]

    assert found == [Rate(100), UNLIMITED, Rate(100, HOUR)]
    assert rates.of("pro", Rate(5, HOUR)) == Rate(5, HOUR)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1000/h", Rate(1000, 3600.0)),
        ("100/min", Rate(100, 60.0)),
        ("30", Rate(30)),
        ("0", Rate(0)),
    ],
)
def test_rates_are_written_as_people_say_them(text: str, rate: Rate) -> None:
    assert Rate.read(text) == rate


@pytest.mark.parametrize("text", ["", "-1", "1.5", "10/day", "10/", "/h", "1e3", "٣/h"])
def test_what_says_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="1000/h"):
        Rate.read(text)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("", "unknown"),
        ("unix:", "unknown"),
    ],
)
def test_an_address_is_counted_as_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


async def test_a_loop_that_is_late_does_not_take_redis_for_lost(valkey: str) -> None:
    log = SharedLog(valkey, patience=0.25)
    await log.beat("gw_1")
    asked = asyncio.create_task(log.beat("gw_2"))
    await asyncio.sleep(0)
    time.sleep(0.3)  # noqa: ASYNC251 - what keeps a loop from running
    assert await asked == 2
    await log.close()
