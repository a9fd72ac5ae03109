"""Suspicion: how long a worker may be silent before that is unlike it.

Phi accrual (Hayashibara et al. 2004), with the distribution that Akka and Hazelcast use: the time
between beats is taken for normal, and a silence is suspect once the odds that a living worker keeps
it are one in 10^8 (phi = 8). That is turned round here: instead of a phi at every look, each beat
gives the length of the silence that would reach it, so that looking is one comparison.
"""

from math import sqrt
from statistics import NormalDist

PHI = 8
DEVIATIONS = NormalDist().inv_cdf(1 - 10**-PHI)
"""Standard deviations above the mean at which phi is reached: 5.6."""

PAUSE = 1.5
"""Seconds of silence beyond the usual that any worker is allowed: a collection, a full disk."""

LEAST_DEVIATION = 0.2
"""Seconds. Beats that come like a clock would make the least delay suspect."""

WEIGHT = 0.05
"""Of the newest interval: the memory is some twenty beats."""


class Rhythm:
    """How regularly the beats of one worker come."""

    def __init__(self, beat: float) -> None:
        self._mean = beat
        self._variance = LEAST_DEVIATION**2
        self._last: float | None = None

    def beat(self, now: float) -> None:
        if self._last is not None:
            off = now - self._last - self._mean
            self._mean += WEIGHT * off
            self._variance = (1 - WEIGHT) * (self._variance + WEIGHT * off * off)
        self._last = now

    def interrupt(self) -> None:
        """The interval that is running says nothing about the worker: not a sample."""
        self._last = None

    @property
    def allowance(self) -> float:
        """Seconds of silence that are still like this worker."""
        return self._mean + PAUSE + DEVIATIONS * max(sqrt(self._variance), LEAST_DEVIATION)
