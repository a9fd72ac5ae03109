"""Turns: when whoever finds all slots of a model full should come again.

Nobody is kept waiting here: slots have their next requests already, and whoever waits behind those
is better told so at once. But those who are refused come again, and should not come together. So
each is given the time when its turn would be, had they all stood in a queue.
"""

from collections.abc import Iterable

from vlinders_gpu_scheduler.slots import Slot

LONGEST = 30.0
"""Seconds that anybody is told to stay away."""

_EVERY = 1.0
"""Seconds between two looks at all slots: a refusal must cost little, and there may be many."""


class Turns:
    """The queue of one model in which nobody stands. It moves on by one whenever a request ends."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._per_second = 0.0
        self._at = 0.0
        self._look_at = 0.0

    def next(self, slots: Iterable[Slot], now: float) -> float | None:
        """Seconds to the turn of one more; None while no request has shown how long it takes."""
        if now >= self._look_at:
            # Little's law: of what is there, and how long each stays, follows how many go.
            self._per_second = sum(
                slot.outstanding / slot.latency for slot in slots if slot.latency
            )
            self._look_at = now + _EVERY
        if not self._per_second:
            return None
        left = max(0.0, self._ahead - (now - self._at) * self._per_second)
        self._ahead = min(left + 1, LONGEST * self._per_second)
        self._at = now
        return min(self._ahead / self._per_second, LONGEST)
