"""Doubt: what the hub holds against itself before it holds silence against its workers.

Most mass evictions in the field were made by an observer that was itself slow, cut off or newly
begun. So deadlines wait for our own lag (a), restart after a stall of our own (b), stop ending
workers when many fall silent at once (c), and end nobody while the hub is new (d). The state of a
worker depends on nothing else: no database, cache or bus is in sight here (e).
"""

from collections import deque
from math import inf

from vlinders_gpu_scheduler.states import Timers

TICK = 0.25
"""Seconds between two looks at the clock."""

MEMORY = 10.0
"""Seconds for which a lag of our own is added to every deadline."""

STALL = 1.0
"""Seconds of lag after which all deadlines restart."""

MANY = 0.2
FEW = 3
"""More than this share of the workers, and more than so many, falling silent within a lease is our
fault or the network's until shown otherwise."""

RELEASE_EVERY = 10.0
"""Seconds between two workers that are let go while many are silent."""

MOST = 0.5
"""While more than this share of them is silent, none is let go: it is we who hear nothing."""


class Doubt:
    """The doubts of one hub, from when it began."""

    def __init__(self, timers: Timers, now: float) -> None:
        self.alarmed = False
        self._timers = timers
        self._new_until = now + max(2 * timers.lease, 30.0)
        self._looked_at = now
        self._lags: deque[tuple[float, float]] = deque()
        self._stalled_until = -inf
        self._released_at = now
        self._deaf = False

    def look(self, now: float) -> bool:
        """To be called every TICK; True when the hub has stalled since the last look."""
        lag = self._current_lag(now)
        self._looked_at = now
        if lag > 0:
            self._lags.append((now, lag))
        if lag > STALL:
            self._stalled_until = now + MEMORY
        return lag > STALL

    def lag(self, now: float) -> float:
        """The worst lag of our own in the last seconds, the one that may be going on included."""
        while self._lags and self._lags[0][0] < now - MEMORY:
            self._lags.popleft()
        return max(0.0, self._current_lag(now), *(lag for _, lag in self._lags))

    def stalled(self, now: float) -> bool:
        """Whether a stall of our own is so recent that broken streams may be its work."""
        return now <= self._stalled_until or self._current_lag(now) > STALL

    def weigh(self, now: float, *, fallen: int, silent: int, living: int) -> None:
        """Tells how many fell silent within the last lease, are silent now, and live at all."""
        if fallen > max(FEW, MANY * living):
            if not self.alarmed:
                self._released_at = now
            self.alarmed = True
        elif silent == 0:
            self.alarmed = False
        self._deaf = self.alarmed and silent > MOST * living

    def may_end(self, now: float) -> bool:
        """Whether one worker may be ended for its silence. Each yes under alarm uses up a turn."""
        if now < self._new_until:
            return False
        if not self.alarmed:
            return True
        if self._deaf or now - self._released_at < RELEASE_EVERY:
            return False
        self._released_at = now
        return True

    def _current_lag(self, now: float) -> float:
        return now - self._looked_at - TICK
