"""How long a silence may be, from how a worker has beaten so far."""

from math import log10
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlinders_gpu_scheduler.suspicion import LEAST_DEVIATION, PAUSE, PHI, Rhythm


def beaten(intervals: list[float]) -> Rhythm:
    rhythm, now = Rhythm(2.0), 0.0
    rhythm.beat(now)
    for interval in intervals:
        now += interval
        rhythm.beat(now)
    return rhythm


def test_a_regular_worker_is_suspect_after_less_than_five_seconds() -> None:
    assert 4 < beaten([2.0] * 100).allowance < 5


def test_a_worker_that_beats_unevenly_may_be_silent_for_longer() -> None:
    uneven = beaten([1.0, 3.0, 1.5, 4.0] * 20)

    assert uneven.allowance > beaten([2.0] * 80).allowance + 3


def test_the_allowance_is_where_phi_is_reached() -> None:
    allowance = beaten([2.0] * 100).allowance

    later = 1 - NormalDist(2.0 + PAUSE, LEAST_DEVIATION).cdf(allowance)

    assert -log10(later) == pytest.approx(PHI, abs=0.01)


def test_an_interrupted_interval_teaches_nothing() -> None:
    rhythm = beaten([2.0] * 10)
    before = rhythm.allowance

    rhythm.interrupt()
    rhythm.beat(900.0)

    assert rhythm.allowance == before


@given(st.lists(st.floats(0.05, 14), min_size=1, max_size=60))
def test_a_worker_is_always_allowed_its_usual_pace(intervals: list[float]) -> None:
    usual = min(2.0, *intervals)

    assert beaten(intervals).allowance >= usual + PAUSE
