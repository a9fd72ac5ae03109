"""Alarms: one timer for many deadlines, since a timer for each would cost more than most of them
guard."""

import asyncio
import math
from collections.abc import Callable


class Alarm:
    """Calls `ring(now)` when the nearest deadline is reached, in seconds of the loop's clock.

    It does what is due, and answers when the next deadline is: `math.inf` for none. A deadline that
    nobody needs any more may stay: the alarm rings once for nothing.
    """

    def __init__(self, ring: Callable[[float], float]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def by(self, at: float) -> None:
        """Has it ring at `at`, unless it does earlier."""
        if at < self._at:
            self.off()
            self._at = at
            self._timer = self._loop.call_at(at, self._fire)

    def off(self) -> None:
        """Forgets all deadlines."""
        self._at = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        # A loop's timer may come a fraction of a millisecond early: what was due then is due now.
        now = max(self._loop.time(), self._at)
        self.off()
        self.by(self._ring(now))
