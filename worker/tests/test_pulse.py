"""What shows that an engine hangs, on a clock that the test holds."""

import pytest

from vlinders_kit.clock import ManualClock
from vlinders_worker.engines.pulse import Pulse


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def pulse(clock: ManualClock) -> Pulse:
    return Pulse(first=120, next=10, clock=clock.monotonic)


def test_an_engine_that_nobody_waits_for_may_be_silent(pulse: Pulse, clock: ManualClock) -> None:
    clock.advance(1_000)
    assert pulse.hangs is None

    pulse.wait(begun=True)
    assert pulse.hangs is None, "it counts from when somebody waits"


def test_in_the_middle_of_an_answer_it_may_be_silent_for_less_long(
    pulse: Pulse, clock: ManualClock
) -> None:
    pulse.wait(begun=False)
    clock.advance(119)
    assert pulse.hangs is None
    clock.advance(2)
    assert pulse.hangs == "nothing came from it for 121 s, and it was asked"

    pulse.end_wait(begun=False, heard=True)
    pulse.wait(begun=True)
    clock.advance(11)
    assert pulse.hangs == "nothing came from it for 11 s, and it was asked"


def test_an_answer_that_stands_still_is_no_hang_while_others_go_on(
    pulse: Pulse, clock: ManualClock
) -> None:
    pulse.wait(begun=True)
    for _ in range(100):
        pulse.wait(begun=True)
        clock.advance(5)
        pulse.end_wait(begun=True, heard=True)

    assert pulse.hangs is None


def test_who_stops_waiting_has_heard_nothing(pulse: Pulse, clock: ManualClock) -> None:
    pulse.wait(begun=True)
    for _ in range(5):
        pulse.wait(begun=True)
        clock.advance(3)
        pulse.end_wait(begun=True, heard=False)

    assert pulse.hangs is not None


def test_a_silence_that_may_be_our_own_does_not_count(pulse: Pulse, clock: ManualClock) -> None:
    pulse.wait(begun=True)
    clock.advance(60)
    pulse.restart()

    assert pulse.hangs is None
