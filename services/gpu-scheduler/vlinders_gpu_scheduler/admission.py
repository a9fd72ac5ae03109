"""Admission: how many workers may say hello in a second: a fleet that returns must be no storm."""

from vlinders_gpu_scheduler.errors import TooManyHellos
from vlinders_kit.clock import Clock


class Admission:
    """At most `rate` a second, and as many at once."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self._clock = clock
        self._rate = rate
        self._left = rate
        self._filled_at = clock.monotonic()

    def take(self) -> None:
        """Raises TooManyHellos where it is one too many."""
        now = self._clock.monotonic()
        self._left = min(self._rate, self._left + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._left < 1:
            raise TooManyHellos
        self._left -= 1
