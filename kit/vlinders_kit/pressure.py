"""How many requests a process takes at once, by whether its event loop keeps up with them.

A process that takes more than it can do does all of it late, refusals too, and is long in getting
over it. What shows it is a queue that stands: for a whole while, nothing was done at once.
What waits elsewhere, for an engine or a client, costs nothing here and counts for nothing.
"""

import asyncio
import math
from collections.abc import Callable

TARGET = 0.05
"""Seconds that what is ready may wait."""

LEAST = 256
"""Requests at once that are taken however long that takes."""

_INTERVAL = 0.5
_TICK = 0.05


class Pressure:
    """A bound of requests at once, between `least` and `most`. It moves while `run` runs.

    `running` says how many there are; `changed` is called when the bound has moved.
    """

    def __init__(
        self,
        most: int,
        running: Callable[[], int],
        changed: Callable[[], object] = lambda: None,
        *,
        least: int = LEAST,
    ) -> None:
        self.most = most
        self._least = least
        self._ceiling = most
        self._running = running
        self._changed = changed

    async def run(self) -> None:
        """Looks at the event loop until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            least, until = math.inf, loop.time() + _INTERVAL
            while loop.time() < until:
                due = loop.time() + _TICK
                await asyncio.sleep(_TICK)
                least = min(least, loop.time() - due)
            self.adapt(least)

    def adapt(self, waited: float) -> None:
        """`waited` is the least time that anything had to wait of late."""
        before = self.most
        if waited > TARGET:
            self.most = min(
                self._ceiling, max(self._least, min(self.most, self._running()) * 3 // 4)
            )
        else:
            self.most = min(self._ceiling, self.most + max(self.most // 8, 1))
        if self.most != before:
            self._changed()
