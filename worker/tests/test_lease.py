"""A lease ends here before it ends at the scheduler; its clock is the hub's."""

from datetime import timedelta

import pytest

from vlinders.gpu_scheduler.v1.workers_pb2 import Lease as LeaseMessage
from vlinders.gpu_scheduler.v1.workers_pb2 import Welcome
from vlinders_kit.clock import ManualClock
from vlinders_worker.lease import Lease


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def lease(clock: ManualClock) -> Lease:
    begun = Lease(clock)
    begin(begun, epoch=3, hello_sent_at=clock.monotonic())
    return begun


def begin(lease: Lease, *, epoch: int, hello_sent_at: float, hub_clock_ms: int = 0) -> None:
    welcome = Welcome(epoch=epoch, ticket_key=b"key", hub_clock_ms=hub_clock_ms)
    welcome.lease.FromTimedelta(timedelta(seconds=15))
    lease.begin(welcome, hello_sent_at=hello_sent_at)


def test_it_counts_from_when_the_acknowledged_beat_was_sent(
    lease: Lease, clock: ManualClock
) -> None:
    lease.beat_leaves(1)
    clock.advance(10)
    lease.renew(LeaseMessage(beat_seq=1, epoch=3))

    clock.advance(4.9)
    assert lease.holds
    clock.advance(0.2)
    assert not lease.holds


def test_a_slow_welcome_has_used_up_its_time(clock: ManualClock) -> None:
    lease = Lease(clock)
    sent_at = clock.monotonic()
    clock.advance(16)

    begin(lease, epoch=1, hello_sent_at=sent_at)

    assert not lease.holds


def test_an_answer_that_comes_late_does_not_shorten_it(lease: Lease, clock: ManualClock) -> None:
    lease.beat_leaves(1)
    clock.advance(2)
    lease.beat_leaves(2)
    lease.renew(LeaseMessage(beat_seq=2, epoch=3))
    lease.renew(LeaseMessage(beat_seq=1, epoch=3))

    clock.advance(14.9)
    assert lease.holds


@pytest.mark.parametrize("answer", [{"beat_seq": 1, "epoch": 2}, {"beat_seq": 9, "epoch": 3}])
def test_an_answer_of_another_epoch_or_to_no_beat_renews_nothing(
    lease: Lease, clock: ManualClock, answer: dict[str, int]
) -> None:
    lease.beat_leaves(1)
    clock.advance(14)
    lease.renew(LeaseMessage(**answer))

    clock.advance(2)
    assert not lease.holds


def test_an_answer_may_lend_it_for_longer(lease: Lease, clock: ManualClock) -> None:
    lease.beat_leaves(1)
    longer = LeaseMessage(beat_seq=1, epoch=3)
    longer.lease.FromTimedelta(timedelta(seconds=30))
    longer.beat_period.FromTimedelta(timedelta(seconds=4))
    clock.advance(5)
    lease.renew(longer)

    assert lease.beat_period == timedelta(seconds=4)
    clock.advance(24.9)
    assert lease.holds
    clock.advance(0.2)
    assert not lease.holds


def test_the_hub_s_clock_is_known_by_its_fastest_message(lease: Lease, clock: ManualClock) -> None:
    begin(lease, epoch=4, hello_sent_at=clock.monotonic(), hub_clock_ms=5_000)
    clock.advance(2)
    lease.beat_leaves(1)
    lease.renew(LeaseMessage(beat_seq=1, epoch=4, hub_clock_ms=6_400))  # it took 600 ms

    assert lease.hub_now_ms == pytest.approx(7_000)
