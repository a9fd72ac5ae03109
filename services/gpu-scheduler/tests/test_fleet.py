"""The fleet on a clock that the test holds: epochs, streams, and the hub's doubts about itself."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlinders_gpu_scheduler.doubt import MEMORY, TICK
from vlinders_gpu_scheduler.errors import StaleEpoch
from vlinders_gpu_scheduler.fleet import Fleet
from vlinders_gpu_scheduler.states import Move, State, Timers
from vlinders_gpu_scheduler.workers import Worker
from vlinders_kit.clock import ManualClock

TIMERS = Timers()
GRACE = 30.0
"""Seconds in which a new hub ends nobody."""

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
"""When another hub saw a worker move last."""


class Watched:
    """A fleet, what it told of moves, and workers that beat by themselves."""

    def __init__(self, clock: ManualClock, hello: Any, line: Any) -> None:
        self.clock = clock
        self.hello = hello
        self.line = line
        self.moves: list[tuple[str, Move]] = []
        self.fleet = Fleet(
            clock,
            TIMERS,
            beats_per_second=2_500,
            changed=lambda worker, move: self.moves.append((worker.id, move)),
        )

    def join(self, count: int, *, first: int = 1) -> list[Worker]:
        """Workers that are online."""
        joined = [
            self.fleet.register(self.hello(f"worker_{number}"), number, b"key", self.line())
            for number in range(first, first + count)
        ]
        for worker in joined:
            self.fleet.beat(worker)
        return joined

    def age(self) -> None:
        """Lets the hub grow older than its grace."""
        self.run(GRACE + 5, beating=list(self.fleet.workers.values()))

    def run(self, seconds: float, *, beating: Iterable[Worker] = ()) -> None:
        """Ticks; whoever beats does so every two seconds."""
        beating = list(beating)
        for tick in range(round(seconds / TICK)):
            if tick % 8 == 0:
                for worker in beating:
                    self.fleet.beat(worker)
            self.clock.advance(TICK)
            self.fleet.tick()

    def stall(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.fleet.tick()

    def states(self, workers: Iterable[Worker]) -> list[State]:
        return [worker.life.state for worker in workers]

    def changes_of(self, worker: Worker) -> list[tuple[State, str]]:
        return [(move.now, move.reason) for id, move in self.moves if id == worker.id]


@pytest.fixture
def watched(clock: ManualClock, hello: Any, line: Any) -> Watched:
    return Watched(clock, hello, line)


class TestSilence:
    def test_makes_suspect_then_offline_and_the_stream_is_closed(self, watched: Watched) -> None:
        (worker,) = watched.join(1)
        watched.age()
        line = worker.line

        watched.run(20)

        assert watched.changes_of(worker)[1:] == [
            (State.SUSPECT, "silent"),
            (State.OFFLINE, "lease over"),
        ]
        assert worker.id not in watched.fleet.workers
        assert isinstance(line.error, StaleEpoch)  # type: ignore[union-attr]

    def test_of_one_moves_no_other(self, watched: Watched) -> None:
        silent, *others = watched.join(4)
        watched.age()

        watched.run(20, beating=others)

        assert watched.states([silent, *others]) == [State.OFFLINE, *[State.ONLINE] * 3]

    def test_a_broken_stream_makes_suspect_at_once(self, watched: Watched) -> None:
        (worker,) = watched.join(1)

        watched.fleet.lose(worker, worker.line)  # type: ignore[arg-type]

        assert worker.life.state is State.SUSPECT

    def test_a_worker_that_hears_nothing_is_suspect_for_as_long_as_it_beats(
        self, watched: Watched
    ) -> None:
        (worker,) = watched.join(1)
        watched.age()

        for _ in range(20):
            watched.run(2)
            watched.fleet.beat(worker, deaf=True)

        assert watched.changes_of(worker)[1:] == [(State.SUSPECT, "hears nothing")]
        watched.fleet.beat(worker)
        assert worker.life.state is State.ONLINE

    def test_a_worker_that_we_did_not_answer_is_not_deaf(self, watched: Watched) -> None:
        (worker,) = watched.join(1)
        watched.age()
        watched.stall(30)

        watched.fleet.beat(worker, deaf=True)

        assert worker.life.state is State.ONLINE

    def test_a_goodbye_is_no_silence(self, watched: Watched) -> None:
        (worker,) = watched.join(1)
        line = worker.line
        watched.fleet.leave(worker)

        assert watched.changes_of(worker)[-1] == (State.OFFLINE, "goodbye")
        assert line.closed  # type: ignore[union-attr]
        assert line.error is None  # type: ignore[union-attr]


class TestEpoch:
    def test_goes_on_for_the_same_agent_within_its_lease(self, watched: Watched) -> None:
        (worker,) = watched.join(1)
        watched.fleet.lose(worker, worker.line)  # type: ignore[arg-type]
        line = watched.line()

        resumed = watched.fleet.resume(watched.hello(last_epoch=1), line)

        assert resumed is worker
        assert worker.life.state is State.SUSPECT
        watched.fleet.beat(worker)
        assert worker.life.state is State.ONLINE

    @pytest.mark.parametrize(
        "said", [{"last_epoch": 0}, {"last_epoch": 7}, {"last_epoch": 1, "boot_id": "boot_2"}]
    )
    def test_ends_with_the_agent(self, watched: Watched, said: dict[str, Any]) -> None:
        watched.join(1)

        assert watched.fleet.resume(watched.hello(**said), watched.line()) is None

    def test_ends_with_the_lease(self, watched: Watched) -> None:
        watched.join(1)
        watched.age()
        watched.run(20)

        assert watched.fleet.resume(watched.hello(last_epoch=1), watched.line()) is None

    def test_that_is_older_is_refused(self, watched: Watched) -> None:
        (old,) = watched.join(1)
        line = old.line
        new = watched.fleet.register(watched.hello(), 2, b"key", watched.line())

        with pytest.raises(StaleEpoch):
            watched.fleet.require(old, line, 1)  # type: ignore[arg-type]
        with pytest.raises(StaleEpoch):
            watched.fleet.require(new, new.line, 1)  # type: ignore[arg-type]
        assert old.life.state is State.OFFLINE

    def test_that_was_issued_later_stands(self, watched: Watched) -> None:
        watched.fleet.register(watched.hello(), 2, b"key", watched.line())

        with pytest.raises(StaleEpoch):
            watched.fleet.register(watched.hello(), 1, b"key", watched.line())

    def test_of_two_streams_the_newest_speaks(self, watched: Watched) -> None:
        (worker,) = watched.join(1)
        old, new = worker.line, watched.line()
        watched.fleet.resume(watched.hello(last_epoch=1), new)

        assert isinstance(old.error, StaleEpoch)  # type: ignore[union-attr]
        watched.fleet.lose(worker, old)  # type: ignore[arg-type]
        assert worker.life.state is State.ONLINE
        watched.fleet.require(worker, new, 1)


class TestSelfDoubt:
    """Rules a) to e): each would evict healthy workers without it."""

    def test_a_own_lag_is_added_to_every_deadline(self, watched: Watched) -> None:
        (worker,) = watched.join(1)
        watched.run(2, beating=[worker])
        watched.stall(TICK + 0.9)
        while not worker.life.silent(watched.clock.monotonic()):
            watched.run(TICK)

        assert worker.life.state is State.ONLINE
        watched.run(1)
        assert worker.life.state is State.SUSPECT

    def test_a_lag_that_is_over_is_forgotten_after_ten_seconds(self, watched: Watched) -> None:
        watched.stall(TICK + 0.9)
        doubt = watched.fleet.doubt
        assert doubt.lag(watched.clock.monotonic()) == pytest.approx(0.9)

        watched.run(10.5)

        assert doubt.lag(watched.clock.monotonic()) < 0.01

    def test_b_after_an_own_stall_all_deadlines_restart(self, watched: Watched) -> None:
        workers = watched.join(3)
        watched.age()

        watched.stall(60)
        watched.run(9)

        assert watched.states(workers) == [State.ONLINE] * 3
        watched.run(9)
        assert watched.states(workers) == [State.OFFLINE] * 3

    def test_b_beats_that_have_waited_for_us_do_not_make_a_worker_irregular(
        self, watched: Watched
    ) -> None:
        (worker,) = watched.join(1)
        watched.age()
        watched.clock.advance(30)
        for _ in range(15):  # which we read at once
            watched.fleet.beat(worker)
        watched.fleet.tick()
        watched.run(MEMORY, beating=[worker])

        watched.run(5)

        assert worker.life.state is State.SUSPECT

    def test_b_streams_that_broke_while_we_stalled_do_not_make_suspect(
        self, watched: Watched
    ) -> None:
        (worker,) = watched.join(1)
        watched.age()

        watched.clock.advance(60)
        watched.fleet.lose(worker, worker.line)  # type: ignore[arg-type]
        watched.fleet.tick()
        watched.fleet.resume(watched.hello(last_epoch=1), watched.line())
        watched.run(30, beating=[worker])

        assert watched.changes_of(worker) == [(State.ONLINE, "registered")]

    def test_c_many_that_fall_silent_at_once_are_kept(self, watched: Watched) -> None:
        workers = watched.join(50)
        watched.age()
        silent, well = workers[:25], workers[25:]

        watched.run(60, beating=well)

        assert watched.fleet.doubt.alarmed
        assert watched.states(well) == [State.ONLINE] * 25
        ended = watched.states(silent).count(State.OFFLINE)
        assert 1 <= ended <= 6, "one every ten seconds"

    def test_c_while_more_than_half_are_silent_none_is_let_go(self, watched: Watched) -> None:
        workers = watched.join(50)
        watched.age()

        watched.run(60, beating=workers[:20])

        assert watched.fleet.doubt.alarmed
        assert State.OFFLINE not in watched.states(workers)
        watched.run(60, beating=workers[:30])
        assert 1 <= watched.states(workers).count(State.OFFLINE) <= 6

    def test_c_beats_that_come_again_end_the_alarm(self, watched: Watched) -> None:
        workers = watched.join(50)
        watched.age()
        watched.run(12, beating=workers[:10])
        assert watched.fleet.doubt.alarmed

        watched.run(5, beating=workers)

        assert not watched.fleet.doubt.alarmed
        assert watched.states(workers) == [State.ONLINE] * 50

    def test_c_few_that_fall_silent_are_no_alarm(self, watched: Watched) -> None:
        workers = watched.join(50)
        watched.age()

        watched.run(20, beating=workers[10:])

        assert not watched.fleet.doubt.alarmed
        assert watched.states(workers[:10]) == [State.OFFLINE] * 10

    def test_d_a_new_hub_gives_everybody_two_leases(self, watched: Watched) -> None:
        known = [
            watched.fleet.adopt(watched.hello(f"worker_{n}"), n, b"key", State.ONLINE, LONG_AGO)
            for n in range(3)
        ]

        watched.run(GRACE - 1)
        assert watched.states(known) == [State.SUSPECT] * 3

        watched.run(2)
        assert watched.states(known) == [State.OFFLINE] * 3

    def test_d_who_comes_back_to_a_new_hub_keeps_its_epoch_and_moves_nowhere(
        self, watched: Watched
    ) -> None:
        worker = watched.fleet.adopt(watched.hello(), 7, b"key", State.ONLINE, LONG_AGO)
        assert worker.since == LONG_AGO
        watched.run(10)

        assert watched.fleet.resume(watched.hello(last_epoch=7), watched.line()) is worker
        watched.run(40, beating=[worker])

        assert watched.moves == []

    def test_c_and_d_a_new_hub_that_finds_many_suspect_does_not_end_them_together(
        self, watched: Watched
    ) -> None:
        well = watched.join(12)
        known = [
            watched.fleet.adopt(watched.hello(f"worker_{n}"), n, b"key", State.SUSPECT, LONG_AGO)
            for n in range(100, 110)
        ]

        watched.run(GRACE + 15, beating=well)

        assert 1 <= watched.states(known).count(State.OFFLINE) <= 3

    def test_e_the_fleet_knows_of_no_store(self) -> None:
        """What a worker is follows from beats and a clock: nothing here could be lost."""
        import vlinders_gpu_scheduler.doubt as doubt
        import vlinders_gpu_scheduler.fleet as fleet
        import vlinders_gpu_scheduler.states as states
        import vlinders_gpu_scheduler.suspicion as suspicion

        for module in (doubt, fleet, states, suspicion):
            names = {getattr(value, "__module__", "") for value in vars(module).values()}
            assert not any(name.startswith(("sqlalchemy", "psycopg", "grpc")) for name in names)


class TestLargeFleet:
    """Beats that would be too many come less often, and leases grow before a worker is told."""

    @pytest.fixture
    def large(self, watched: Watched) -> Watched:
        watched.fleet = Fleet(watched.clock, TIMERS, beats_per_second=5, changed=lambda *_: None)
        return watched

    def test_that_has_grown_tells_those_who_were_there_before(self, large: Watched) -> None:
        early, *_ = large.join(10)
        assert large.fleet.beat(early) is None
        large.join(5, first=11)

        longer = large.fleet.beat(early)

        assert longer is not None
        assert (longer.beat, longer.lease) == (3, 22.5)
        assert early.life.timers == longer
        assert large.fleet.beat(early) is None, "told once"

    def test_that_shrinks_keeps_the_leases_it_has_lent(self, large: Watched) -> None:
        early, *others = large.join(20)
        large.fleet.beat(early)
        for worker in others:
            large.fleet.leave(worker)

        assert large.fleet.beat(early) is None
        assert early.life.timers.lease == 30

    def test_never_lends_more_than_a_new_hub_waits(self, large: Watched) -> None:
        large.join(100)

        assert large.fleet.timers.lease == 2 * TIMERS.lease <= GRACE


class TestDrain:
    def test_tells_the_worker_and_takes_no_beat_for_a_return(self, watched: Watched) -> None:
        (worker,) = watched.join(1)
        watched.fleet.drain(worker.id)
        watched.run(20, beating=[worker])

        assert worker.line.drained_for == TIMERS.drain  # type: ignore[union-attr]
        assert worker.life.state is State.DRAINING

    def test_is_kept_over_a_new_stream(self, watched: Watched) -> None:
        (worker,) = watched.join(1)
        watched.fleet.drain(worker.id)
        watched.fleet.lose(worker, worker.line)  # type: ignore[arg-type]

        assert watched.fleet.resume(watched.hello(last_epoch=1), watched.line()) is worker
        watched.fleet.beat(worker)
        assert worker.life.state is State.DRAINING

    def test_of_nobody_is_none(self, watched: Watched) -> None:
        assert watched.fleet.drain("worker_9") is None


def test_requests_that_cannot_be_begun_make_suspect(watched: Watched) -> None:
    (worker,) = watched.join(1)

    for _ in range(3):
        watched.fleet.failed(worker.id)
    watched.fleet.failed("worker_9")

    assert watched.changes_of(worker)[-1] == (State.SUSPECT, "requests fail")


TURNS = st.lists(
    st.tuples(
        st.sampled_from([TICK] * 6 + [0.6, 1.2, 5.0, 40.0]),  # seconds until the hub looks again
        st.lists(st.integers(0, 9), max_size=3),  # whose stream breaks
    ),
    max_size=150,
)


@given(turns=TURNS)
@settings(max_examples=60, deadline=None)
def test_who_beats_whenever_the_hub_listens_is_never_offline(
    hello: Any, line: Any, turns: list[tuple[float, list[int]]]
) -> None:
    """Whatever the pauses of the hub are, and however often streams break and come again."""
    watched = Watched(ManualClock(), hello, line)
    workers = watched.join(10)
    for pause, broken in turns:
        watched.clock.advance(pause)
        for worker in (workers[number] for number in broken):
            watched.fleet.lose(worker, worker.line)  # type: ignore[arg-type]
            again = hello(worker.id, last_epoch=worker.epoch)
            assert watched.fleet.resume(again, line()) is worker
        watched.fleet.tick()
        for worker in workers:
            watched.fleet.beat(worker)

    assert State.OFFLINE not in watched.states(workers)
