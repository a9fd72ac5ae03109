"""Outages: one line of log when something goes away, one when it is back, and waits in between."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Gauge

from vlinders_kit import logs

log = logs.get(__name__)


_AWAY = Gauge("vlinders_away", "1 while something is away that is needed.", ["of"])


@dataclass
class Backoff:
    """Waits that double from `first` to `longest` seconds, less up to half by chance: of many who
    lost the same thing at once, not all come back at once."""

    first: float = 0.1
    longest: float = 5.0
    chance: Callable[[], float] = random.random
    waits: int = 0

    async def wait(self) -> None:
        # The power is bounded, since 2.0 ** 1024 is an error and an outage may last a week.
        longest = min(self.longest, self.first * 2.0 ** min(self.waits, 30))
        self.waits += 1
        await asyncio.sleep(longest * (1 - self.chance() / 2))


class Outage:
    """Whether `what` is away. Waits are those of a `Backoff`, from `first` to `longest` seconds."""

    def __init__(
        self,
        what: str,
        *,
        first: float = 0.1,
        longest: float = 5.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._what = what
        self._told = _AWAY.labels(what)
        self._backoff = Backoff(first, longest, chance)

    async def wait(self, error: BaseException) -> None:
        """Notes that it is away, and returns when it is time to try again."""
        if self._backoff.waits == 0:
            self._told.set(1)
            log.warning("outage_began", of=self._what, error=type(error).__name__, text=str(error))
        await self._backoff.wait()

    def over(self) -> None:
        """Notes that it is there."""
        if self._backoff.waits:
            self._told.set(0)
            log.warning("outage_ended", of=self._what, tries=self._backoff.waits)
            self._backoff.waits = 0
