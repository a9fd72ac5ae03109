"""Outages: one line of log when something goes away, one when it is back, and waits in between."""

import asyncio
import random
from collections.abc import Callable

from vlinders_kit import logs

log = logs.get(__name__)


class Outage:
    """Whether `what` is away. Waits grow from `first` to `longest` seconds, each with jitter."""

    def __init__(
        self,
        what: str,
        *,
        first: float = 0.1,
        longest: float = 5.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._what = what
        self._first = first
        self._longest = longest
        self._chance = chance
        self._waits = 0

    async def wait(self, error: BaseException) -> None:
        """Notes that it is away, and returns when it is time to try again."""
        if self._waits == 0:
            log.warning("outage_began", of=self._what, error=type(error).__name__, text=str(error))
        # The power is bounded, since 2.0 ** 1024 is an error and an outage may last a week.
        longest = min(self._longest, self._first * 2.0 ** min(self._waits, 30))
        self._waits += 1
        await asyncio.sleep(longest * (0.5 + self._chance() / 2))

    def over(self) -> None:
        """Notes that it is there."""
        if self._waits:
            log.warning("outage_ended", of=self._what, tries=self._waits)
            self._waits = 0
