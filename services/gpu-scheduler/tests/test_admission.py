"""How many workers may say hello."""

import pytest

from vlinders_gpu_scheduler.admission import Admission
from vlinders_gpu_scheduler.errors import TooManyHellos
from vlinders_kit.clock import ManualClock


def admitted(admission: Admission, tries: int) -> int:
    count = 0
    for _ in range(tries):
        try:
            admission.take()
        except TooManyHellos:
            continue
        count += 1
    return count


def test_a_storm_is_spread_over_seconds(clock: ManualClock) -> None:
    admission = Admission(clock, 500)

    counts = []
    for _ in range(4):
        counts.append(admitted(admission, 2_000))
        clock.advance(1)

    assert counts == [500] * 4


def test_calm_is_not_saved_up(clock: ManualClock) -> None:
    admission = Admission(clock, 10)
    clock.advance(3600)

    assert admitted(admission, 100) == 10


def test_who_is_refused_is_told_when_to_come_again() -> None:
    assert TooManyHellos.retry_after is not None
    with pytest.raises(TooManyHellos):
        raise TooManyHellos
