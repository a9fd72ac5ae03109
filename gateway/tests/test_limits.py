"""Limits: exact in every sixty seconds, over all gateways, with Redis and without."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlinders_gateway import limits as module
from vlinders_gateway.limits import Limits, Rates, network_of
from vlinders_gateway.shared_log import Ask, SharedLog, SharedLogAway, Told
from vlinders_kit.clock import ManualClock

pytestmark = pytest.mark.anyio

PATIENT = 5.0


@asynccontextmanager
async def gateways(
    valkey: str, count: int = 1, *, window: float = 60.0
) -> AsyncIterator[list[Limits]]:
    """Gateways that share one Redis and know of each other."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            shared = SharedLog(valkey, window=window, patience=PATIENT)
            stack.push_async_callback(shared.close)
            made.append(Limits(shared, gateways=count))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(limits.run()) for limits in made]
            yield made
            for task in tasks:
                task.cancel()


async def test_exactly_the_limit_is_admitted_and_told_so(valkey: str) -> None:
    async with gateways(valkey) as (limits,):
        verdicts = [await limits.take("a", 10) for _ in range(12)]

    assert [verdict.remaining for verdict in verdicts] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0]
    assert [verdict.wait for verdict in verdicts[:10]] == [0] * 10
    assert all(1 <= verdict.wait <= 60 for verdict in verdicts[10:])
    assert {verdict.limit for verdict in verdicts} == {10}
    resets = [verdict.reset for verdict in verdicts]
    assert resets == sorted(resets)


@pytest.mark.parametrize(("count", "limit"), [(1, 100), (4, 100), (8, 100), (4, 1000)])
async def test_at_once_over_all_gateways_it_is_exactly_the_limit(
    valkey: str, count: int, limit: int
) -> None:
    async with gateways(valkey, count) as made:
        verdicts = await asyncio.gather(
            *(made[number % count].take("a", limit) for number in range(limit * 2))
        )

    admitted = sum(1 for verdict in verdicts if not verdict.wait)
    assert limit * 0.99 <= admitted <= limit


async def test_principals_do_not_share_their_limits(valkey: str) -> None:
    async with gateways(valkey) as (limits,):
        for name in ("a", "b"):
            assert [(await limits.take(name, 2)).wait == 0 for _ in range(3)] == [True, True, False]


async def test_a_larger_plan_opens_at_once(valkey: str) -> None:
    async with gateways(valkey) as (limits,):
        for _ in range(11):
            last = await limits.take("a", 10)
        assert last.wait
        assert (await limits.take("a", 100)).remaining == 89


async def test_the_window_slides(valkey: str) -> None:
    """Two halves of a second: what was taken in the first is free again before the second's."""
    async with gateways(valkey, window=1.0) as (limits,):
        begun = asyncio.get_running_loop().time()
        admitted = []
        while (now := asyncio.get_running_loop().time()) - begun < 3.0:
            # The wait that a client is told is in whole seconds; here it asks all the time.
            limits._buckets.clear()
            if not (await limits.take("a", 20)).wait:
                admitted.append(now)

    windows = [sum(1 for at in admitted if start <= at < start + 1.0) for start in admitted]
    assert max(windows) <= 20 + 1  # the clocks of Redis and this loop are read a moment apart
    assert len(admitted) >= 59


class FakeLog:
    """What Redis's script does, on a clock that stands; away when told so."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.entries: dict[str, list[tuple[float, int, str]]] = {}
        self.calls = 0
        self.away = False

    async def take(self, asks: Any) -> list[Told]:
        await asyncio.sleep(0)
        if self.away:
            raise SharedLogAway
        self.calls += 1
        return [self._take(ask) for ask in asks]

    def _take(self, ask: Ask) -> Told:
        now = self.clock.monotonic()
        rows = self.entries.setdefault(ask.bucket, [])
        rows[:] = [
            (at, n - ask.unspent if id == ask.unspent_of.rpartition(" ")[2] else n, id)
            for at, n, id in rows
            if at > now - 60
        ]
        used = sum(n for _, n, _ in rows)
        granted = min(ask.want, max(0, ask.limit - used))
        if granted:
            rows.append((now, granted, ask.slice_id))
        frees = rows[0][0] + 60 - now if rows else 0
        return Told(granted, used + granted, f"{now} {granted} {ask.slice_id}", frees, now + 60)

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


@given(steps=steps, limit=st.sampled_from([1, 10, 100, 1000]), count=st.sampled_from([1, 4]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_in_any_sixty_seconds_no_more_than_one_percent_over(
    steps: list[tuple[float, int]], limit: int, count: int
) -> None:
    clock = ManualClock()
    admitted: list[float] = []
    async with on_a_clock(count, clock) as (made, _):
        for pause, burst in steps:
            clock.advance(pause)
            verdicts = [await made[n % count].take("a", limit) for n in range(burst)]
            admitted += [clock.monotonic() for verdict in verdicts if not verdict.wait]

    most = max((sum(1 for at in admitted if a <= at < a + 60) for a in admitted), default=0)
    assert most <= limit + limit // 100


@pytest.mark.parametrize("count", [1, 4])
async def test_slices_that_are_spent_late_move_the_window_by_one_percent_at_most(
    count: int,
) -> None:
    """The worst that slices can do: taken at one moment, spent as late as they may be."""
    clock = ManualClock()
    late = 0
    async with on_a_clock(count, clock) as (made, _):
        for number in range(500):
            assert not (await made[number % count].take("a", 1000)).wait
        clock.advance(module.SLICE_SECONDS - 0.001)
        for limits in made:
            while limits.at_once("a", 1000) is not None:
                late += 1
        clock.advance(60 - module.SLICE_SECONDS + 0.001)
        verdicts = [await made[n % count].take("a", 1000) for n in range(1100)]

    assert late + sum(1 for verdict in verdicts if not verdict.wait) <= 1010


@given(bursts=st.lists(st.integers(1, 300), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
async def test_a_client_within_its_limit_is_never_refused(bursts: list[int]) -> None:
    clock = ManualClock()
    async with on_a_clock(1, clock) as (made, _):
        for burst in bursts:
            for _ in range(min(burst, 100)):
                assert not (await made[0].take("a", 100)).wait
            clock.advance(60)


async def test_most_requests_of_a_busy_client_cost_no_call() -> None:
    clock = ManualClock()
    async with on_a_clock(1, clock) as (made, log):
        for _ in range(800):
            clock.advance(0.01)
            assert not (await made[0].take("a", 1000)).wait
        assert log.calls < 400


async def test_who_is_over_the_limit_costs_no_call() -> None:
    clock = ManualClock()
    async with on_a_clock(1, clock) as (made, log):
        for _ in range(1_000):
            await made[0].take("a", 10)
        assert log.calls == 11
        assert made[0].closed("a")


async def test_what_a_gateway_did_not_spend_is_there_for_the_others() -> None:
    clock = ManualClock()
    async with on_a_clock(2, clock) as (made, log):
        one, other = made
        for _ in range(100):
            await one.take("a", 1000)
        clock.advance(module.SLICE_SECONDS)
        giving = asyncio.create_task(one._give_back())
        while log.entries and sum(n for _, n, _ in log.entries["a"]) > 100:
            await asyncio.sleep(0.01)
        giving.cancel()

        admitted = [await other.take("a", 1000) for _ in range(901)]

    assert sum(1 for verdict in admitted if not verdict.wait) == 900


async def test_without_redis_each_gateway_keeps_its_share_and_nobody_fails() -> None:
    clock = ManualClock()
    async with on_a_clock(4, clock) as (made, log):
        log.away = True
        admitted = 0
        for limits in made:
            verdicts = [await limits.take("a", 100) for _ in range(50)]
            admitted += sum(1 for verdict in verdicts if not verdict.wait)
            assert limits.away
    assert admitted == 100


async def test_what_was_admitted_before_redis_went_counts_against_the_share() -> None:
    clock = ManualClock()
    async with on_a_clock(1, clock) as (made, log):
        for _ in range(8):
            await made[0].take("a", 10)
        log.away = True
        verdicts = [await made[0].take("a", 10) for _ in range(5)]
    assert [verdict.wait == 0 for verdict in verdicts] == [True, True, False, False, False]


async def test_a_share_slides_too() -> None:
    clock = ManualClock()
    async with on_a_clock(1, clock) as (made, log):
        log.away = True
        for _ in range(10):
            await made[0].take("a", 10)
        refused = await made[0].take("a", 10)
        clock.advance(refused.wait)
        assert not (await made[0].take("a", 10)).wait


async def test_redis_that_comes_back_is_believed_again_by_itself(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BEAT_SECONDS", 0.01)
    clock = ManualClock()
    async with on_a_clock(1, clock) as (made, log):
        log.away = True
        beating = asyncio.create_task(made[0]._beat())
        await until(lambda: made[0].away)
        assert not (await made[0].take("a", 10)).wait
        log.away = False
        await until(lambda: not made[0].away)
        beating.cancel()
        calls = log.calls
        assert not (await made[0].take("a", 10)).wait
        assert log.calls == calls + 1


async def test_an_unreachable_redis_is_given_up_on_at_once() -> None:
    log = SharedLog("redis://127.0.0.1:1/0")
    with pytest.raises(SharedLogAway):
        await log.take([Ask("a", 10, 1, "s1")])
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
    log = SharedLog(valkey, patience=PATIENT)
    (first,) = await log.take([Ask("a", 10, 5, "s1")])
    (second,) = await log.take([Ask("a", 10, 1, "s2", first.entry, 4)])
    assert (first.used, second.used) == (5, 2)
    (third,) = await log.take([Ask("a", 10, 0, "s3", "0 3 s9", 3)])  # nobody's slice
    assert third.used == 2
    await log.close()


async def test_a_sum_that_redis_has_lost_is_counted_again(valkey: str) -> None:
    from redis.asyncio import Redis

    log = SharedLog(valkey, patience=PATIENT)
    await log.take([Ask("a", 10, 7, "s1")])
    async with Redis.from_url(valkey) as redis:
        await redis.delete("vlinders:limit:{a}:sum")
    (told,) = await log.take([Ask("a", 10, 7, "s2")])
    assert (told.granted, told.used) == (3, 10)
    await log.close()


def test_an_unknown_plan_has_the_smallest_limit() -> None:
    rates = Rates({"free": 10, "pro": 100, "operator": 0}, 30, 100)
    assert [rates.of_plan(plan) for plan in ("pro", "operator", "gold")] == [100, 0, 10]


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
