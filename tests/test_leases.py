"""A lease between a worker and its hub, over any delays: the worker always stops first.

Neither part's own tests can show it, since each has but one end of the rule.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from vlinders.gpu_scheduler.v1 import workers_pb2 as pb
from vlinders_gpu_scheduler.fleet import Fleet
from vlinders_gpu_scheduler.states import State, Timers
from vlinders_gpu_scheduler.workers import Hello, Inventory, Worker
from vlinders_kit.clock import ManualClock
from vlinders_worker.lease import Lease

TIMERS = Timers()
TICK = 0.25
CROWD = 12
"""Workers that come and go beside the one that is looked at; five make beats longer."""


class Line:
    """A stream that nobody listens to."""

    def drain(self, seconds: float) -> None: ...

    def close(self, error: Exception | None = None) -> None: ...


@dataclass
class Pair:
    """A worker and its hub, with what is on its way between them."""

    clock: ManualClock = field(default_factory=ManualClock)
    beats: deque[tuple[float, int]] = field(default_factory=deque)
    answers: deque[tuple[float, pb.Lease]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.clock, TIMERS, beats_per_second=2.5, changed=lambda *_: None)
        self.worker = self._join("worker", 1)
        self.lease = Lease(self.clock)
        self.seq = 0
        welcome = pb.Welcome(epoch=1)
        welcome.lease.FromTimedelta(timedelta(seconds=self.worker.life.timers.lease))
        self.lease.begin(welcome, hello_sent_at=self.clock.monotonic())

    @property
    def offline(self) -> bool:
        return self.worker.life.state is State.OFFLINE

    def crowd(self, size: int) -> None:
        """Has the fleet be of that size, beside the worker."""
        others = [id for id in self.fleet.workers if id != "worker"]
        for id in others[size:]:
            self.fleet.leave(self.fleet.workers[id])
        for number in range(len(others), size):
            self._join(f"other_{number}_{self.clock.monotonic()}", 1_000 + number)

    def beat(self, delay: float) -> None:
        """The worker says that it lives; that takes a while to arrive."""
        self.seq += 1
        self.lease.beat_leaves(self.seq)
        self.beats.append((self._after(self.beats, delay), self.seq))

    def pass_time(self, seconds: float, answer_delay: float) -> None:
        for tick in range(max(1, round(seconds / TICK))):
            self.clock.advance(TICK)
            now = self.clock.monotonic()
            while self.beats and self.beats[0][0] <= now and not self.offline:
                self._hear(self.beats.popleft()[1], answer_delay)
            while self.answers and self.answers[0][0] <= now:
                self.lease.renew(self.answers.popleft()[1])
            if tick % 8 == 0:
                for other in set(self.fleet.workers.values()) - {self.worker}:
                    self.fleet.beat(other)
            self.fleet.tick()
            assert not (self.offline and self.lease.holds), "the hub gave up first"

    def _hear(self, seq: int, delay: float) -> None:
        answer = pb.Lease(beat_seq=seq, epoch=1)
        if (longer := self.fleet.beat(self.worker)) is not None:
            answer.lease.FromTimedelta(timedelta(seconds=longer.lease))
            answer.beat_period.FromTimedelta(timedelta(seconds=longer.beat))
        self.answers.append((self._after(self.answers, delay), answer))

    def _after(self, line: Sequence[tuple[float, Any]], delay: float) -> float:
        """When something arrives: on a stream nothing overtakes."""
        return max(self.clock.monotonic() + delay, line[-1][0] if line else 0.0)

    def _join(self, id: str, epoch: int) -> Worker:
        inventory = Inventory((), b"", b"", pretended=False)
        hello = Hello(id, "boot", "http://x:1", "host", "1", 0, inventory, ())
        worker = self.fleet.register(hello, epoch, b"key", Line())
        self.fleet.beat(worker)
        return worker


DELAYS = st.sampled_from([0.0, 0.1, 0.5, 2.0, 9.0, 16.0, 40.0])
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 4, 8, CROWD]),
        st.booleans(),
        DELAYS,
        DELAYS,
        st.sampled_from([0.25, 1.0, 2.0, 6.0, 18.0]),
    ),
    max_size=30,
)


@given(steps=STEPS)
@settings(max_examples=40, deadline=None)
def test_the_worker_stops_before_its_hub_gives_it_up(
    steps: list[tuple[int, bool, float, float, float]],
) -> None:
    pair = Pair()
    pair.pass_time(2, 0.0)
    for size, beats, there, back, wait in steps:
        pair.crowd(size)
        if beats:
            pair.beat(there)
        pair.pass_time(wait, back)
    pair.pass_time(90, 0.0)

    assert pair.offline, "and it does give it up"
