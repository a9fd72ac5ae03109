"""Leases of one tenant: what this replica may admit from, and who waits for more.

Arithmetic in memory, without an await: what is reserved, settled and returned here never adds up to
more than what was lent.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from msgspec import Struct

from vlinders_inference.errors import CreditUnavailable, InsufficientCredit

HORIZON_SECONDS = 10.0
"""A lease is sized for this long at the rate of spending."""


@dataclass(slots=True, eq=False)
class Lease:
    """Credit lent to this replica. `free` is what is neither used up nor reserved nor returned."""

    id: str
    free: int
    used_at: float
    """When something was admitted last."""
    expires_at: float = 0.0
    renew_at: float = 0.0
    running: int = 0
    """Admitted requests that have not ended."""

    def prolong(self, asked_at: float, lifetime: float) -> None:
        """Its life counts from when billing was asked: billing counts from later, if at all."""
        self.expires_at = max(self.expires_at, asked_at + lifetime)
        self.renew_at = asked_at + lifetime / 3

    def end(self) -> None:
        """It is over, and whatever comes back to it is billing's to settle."""
        self.free = 0
        self.expires_at = 0.0


class Hold(Struct, eq=False):
    """The ceiling of one admitted request, and where it came from; None: it costs nothing."""

    ceiling: int
    lease: Lease | None

    @property
    def lease_id(self) -> str:
        return self.lease.id if self.lease is not None else ""

    def settle(self, charged: int) -> None:
        """Ends the request: what it was not charged can be admitted from again."""
        if self.lease is not None:
            self.lease.running -= 1
            self.lease.free += self.ceiling - charged


class Leases:
    """The leases of one tenant on this replica, and the requests that wait for one."""

    def __init__(self, now: float) -> None:
        self.open: list[Lease] = []
        self.seen_at = now
        """When something was last asked of it."""
        self.scarce_until = 0.0
        """The wallet has lent less than was wanted: until then it is asked for the least."""
        self.asking: asyncio.Task[None] | None = None
        self._waiting: deque[tuple[int, asyncio.Future[Hold]]] = deque()
        self._rate = 0.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def note(self, ceiling: int, now: float) -> None:
        """Counts a request into the rate of spending."""
        kept = max(0.0, 1 - (now - self.seen_at) / HORIZON_SECONDS)
        self._rate = self._rate * kept + ceiling / HORIZON_SECONDS
        self.seen_at = now

    def reserve(self, ceiling: int, now: float) -> Hold | None:
        """Admits a request, if a lease covers it."""
        for lease in self.open:
            if lease.free >= ceiling and lease.expires_at > now:
                lease.free -= ceiling
                lease.running += 1
                lease.used_at = now
                return Hold(ceiling, lease)
        return None

    def wait(self, ceiling: int) -> "asyncio.Future[Hold]":
        """Queues a request for which no lease is large enough."""
        waiter: asyncio.Future[Hold] = asyncio.get_running_loop().create_future()
        self._waiting.append((ceiling, waiter))
        return waiter

    def serve(self, now: float) -> int:
        """Admits those who wait, in their order, as far as the leases go.

        Returns the ceiling of the first who still waits; 0 when nobody does.
        """
        while self._waiting:
            ceiling, waiter = self._waiting[0]
            if not waiter.done():
                hold = self.reserve(ceiling, now)
                if hold is None:
                    return ceiling
                waiter.set_result(hold)
            self._waiting.popleft()
        return 0

    def wanted(self, least: int, now: float) -> int:
        """What to ask for: enough for all who wait and for the horizon, unless money is scarce."""
        if now < self.scarce_until:
            return least
        waiting = sum(ceiling for ceiling, _ in self._waiting)
        return max(least, waiting, int(self._rate * HORIZON_SECONDS))

    def refuse(self, among: int, least: int) -> None:
        """Refuses those of the first `among` who wait for `least` or more; 0: billing is away.

        They were there when billing was asked, so its answer is theirs too. Later ones ask again.
        """
        kept: list[tuple[int, asyncio.Future[Hold]]] = []
        for _ in range(among):
            ceiling, waiter = self._waiting.popleft()
            if ceiling < least:
                kept.append((ceiling, waiter))
            elif not waiter.done():
                refusal = InsufficientCredit(needed_nanos=ceiling) if least else CreditUnavailable()
                waiter.set_exception(refusal)
        self._waiting.extendleft(reversed(kept))

    def drop(self, lease: Lease) -> None:
        """Nothing may be admitted from it any more."""
        lease.end()
        self.open.remove(lease)

    def expired(self, now: float) -> list[Lease]:
        return [lease for lease in self.open if lease.expires_at <= now]

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self.open))
