"""Admission: every request takes the most that it may cost from a lease, before anything is spent.

A lease is a part of a tenant's wallet that billing has set aside for this replica. Admitting from
one is arithmetic in memory; billing is asked when leases run low, are to be prolonged, or idle.
What this replica admits never exceeds what it was lent, whatever billing, network and clocks do.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from vlinders_inference.errors import CreditUnavailable, InsufficientCredit
from vlinders_kit import logs
from vlinders_kit.clock import Clock
from vlinders_kit.ids import new_id
from vlinders_kit.outages import Outage

HORIZON_SECONDS = 10.0
"""A lease is sized for this long at the rate of spending."""

SCARCE_SECONDS = 10.0
"""How long a wallet that lent less than was wanted is asked for one request's ceiling at a time."""

IDLE_SECONDS = 5.0
"""After so long without an admission, a lease gives back what no running request may need."""

TICK_SECONDS = 1.0
"""How often leases are prolonged, given back or dropped."""

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Granted:
    """What billing lent, and for how many seconds from when it was asked."""

    nanos: int
    lifetime: float


@dataclass(frozen=True, slots=True)
class Return:
    """Credit that goes back; takes effect once for each `return_id`."""

    return_id: str
    lease_id: str
    nanos: int
    close: bool


class Lender(Protocol):
    """Billing, as admission needs it. Every call has a deadline and raises CreditUnavailable."""

    async def acquire(self, lease_id: str, tenant_id: str, *, least: int, wanted: int) -> Granted:
        """Raises InsufficientCredit when less than `least` can be had."""
        ...

    async def renew(self, lease_ids: Sequence[str]) -> tuple[float, Sequence[str]]:
        """The lifetime from when it was asked, and the leases that are over."""
        ...

    async def give_back(self, returns: Sequence[Return]) -> None: ...

    def recalls(self) -> AsyncIterator[str]:
        """Tenants whose idle credit is wanted elsewhere, as long as the stream holds."""
        ...


@dataclass(slots=True, eq=False)
class Lease:
    """Credit lent to this replica. `free` is what is neither used up nor reserved nor returned."""

    id: str
    tenant_id: str
    free: int
    expires_at: float
    renew_at: float
    used_at: float
    running: int = 0
    gone: bool = False
    """Closed, expired or taken away: nothing may be admitted from it, nothing be returned."""


@dataclass(slots=True, eq=False)
class Hold:
    """The ceiling of one admitted request, and where it came from; None: it costs nothing."""

    ceiling: int
    lease: Lease | None

    @property
    def lease_id(self) -> str:
        return self.lease.id if self.lease is not None else ""


@dataclass(slots=True)
class _Tenant:
    leases: list[Lease] = field(default_factory=list)
    waiting: deque[tuple[int, "asyncio.Future[Hold]"]] = field(default_factory=deque)
    rate: float = 0.0
    """Ceilings per second, smoothed."""
    rated_at: float = 0.0
    scarce_until: float = 0.0
    asking: "asyncio.Task[None] | None" = None


class CreditBook:
    """The leases of this replica. `run` looks after them; `close` gives them back."""

    def __init__(self, lender: Lender, clock: Clock) -> None:
        self._lender = lender
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}
        self._returns: list[Return] = []
        self._returned = asyncio.Event()
        self._sending = asyncio.Lock()

    async def take(self, tenant_id: str, ceiling: int) -> Hold:
        """Admits a request that costs `ceiling` nanos at most.

        Raises InsufficientCredit when the wallet has not that much to lend, and CreditUnavailable
        when no open lease covers it and billing does not answer. Whoever takes settles.
        """
        if ceiling == 0:
            return Hold(0, None)
        now = self._clock.monotonic()
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            tenant = self._tenants[tenant_id] = _Tenant(rated_at=now)
        _rate(tenant, ceiling, now)
        if not tenant.waiting and (hold := _reserve(tenant, ceiling, now)) is not None:
            return hold
        waiter: asyncio.Future[Hold] = asyncio.get_running_loop().create_future()
        tenant.waiting.append((ceiling, waiter))
        if tenant.asking is None:
            tenant.asking = asyncio.create_task(self._ask(tenant_id, tenant), name="lease")
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.settle(waiter.result(), 0)
            raise

    def settle(self, hold: Hold, charged: int) -> None:
        """Ends an admitted request that was charged so much of its ceiling."""
        lease = hold.lease
        if lease is None:
            return
        lease.running -= 1
        lease.free += hold.ceiling - charged

    def recall(self, tenant_id: str) -> None:
        """Gives back at once what no running request of the tenant may need."""
        tenant = self._tenants.get(tenant_id)
        if tenant is not None and not tenant.waiting:
            self._give_back_idle(tenant)

    async def run(self) -> None:
        """Prolongs, returns and drops leases, and listens for recalls, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._send())
            while True:
                await asyncio.sleep(TICK_SECONDS)
                await self.tick()

    async def tick(self) -> None:
        """One round of looking after the leases."""
        now = self._clock.monotonic()
        renewable: dict[str, Lease] = {}
        for tenant_id, tenant in list(self._tenants.items()):
            _drop_expired(tenant, now)
            for lease in list(tenant.leases):
                if now - lease.used_at >= IDLE_SECONDS and not tenant.waiting:
                    self._return(tenant, lease)
                if not lease.gone:
                    renewable[lease.id] = lease
            if not tenant.leases and not tenant.waiting and now - tenant.rated_at > 60:
                del self._tenants[tenant_id]
        if renewable:
            await self._renew(renewable)

    async def close(self) -> None:
        """Gives back everything, once no request runs any more."""
        for tenant in self._tenants.values():
            if tenant.asking is not None:
                tenant.asking.cancel()
            self._give_back_idle(tenant)
        await self._flush()

    async def _ask(self, tenant_id: str, tenant: _Tenant) -> None:
        """Gets leases until nobody of the tenant waits. One at a time for each tenant."""
        try:
            while tenant.waiting:
                await self._serve_first(tenant_id, tenant)
        finally:
            tenant.asking = None

    async def _serve_first(self, tenant_id: str, tenant: _Tenant) -> None:
        """Serves those who wait, from a new lease that covers at least the first of them."""
        _serve(tenant, self._clock.monotonic())
        if not tenant.waiting:
            return
        least = tenant.waiting[0][0]
        # What is left of other leases, each too small, would be missing in the wallet.
        self._give_back_idle(tenant)
        wanted = least
        asked_at = self._clock.monotonic()
        if asked_at >= tenant.scarce_until:
            waiting = sum(ceiling for ceiling, _ in tenant.waiting)
            wanted = max(least, waiting, int(tenant.rate * HORIZON_SECONDS))
        lease_id, among = new_id("lease"), len(tenant.waiting)
        try:
            with suppress(CreditUnavailable):  # then what was returned is missing, no more
                await self._flush()
            granted = await self._lender.acquire(lease_id, tenant_id, least=least, wanted=wanted)
        except InsufficientCredit:
            tenant.scarce_until = asked_at + SCARCE_SECONDS
            _refuse(tenant, among, least)
            return
        except Exception as error:  # nobody may wait for ever, whatever it is
            if not isinstance(error, CreditUnavailable):
                log.error("lease_failed", exc_info=error)
            _refuse(tenant, among, 0)
            return
        if granted.nanos < wanted:
            tenant.scarce_until = asked_at + SCARCE_SECONDS
        now = self._clock.monotonic()
        lease = Lease(lease_id, tenant_id, granted.nanos, 0.0, 0.0, now)
        _prolong(lease, asked_at, granted.lifetime)
        tenant.leases.append(lease)
        _serve(tenant, now)

    async def _renew(self, leases: dict[str, Lease]) -> None:
        asked_at = self._clock.monotonic()
        if all(lease.renew_at > asked_at for lease in leases.values()):
            return
        try:
            lifetime, gone = await self._lender.renew(list(leases))
        except CreditUnavailable:
            return  # what is open goes on until it is spent or expired
        for lease_id in gone:
            if (lease := leases.pop(lease_id, None)) is not None:
                self._forget(lease)
        for lease in leases.values():
            _prolong(lease, asked_at, lifetime)

    def _give_back_idle(self, tenant: _Tenant) -> None:
        for lease in list(tenant.leases):
            self._return(tenant, lease)

    def _return(self, tenant: _Tenant, lease: Lease) -> None:
        """Returns what is free of a lease, and closes it when no request of it runs."""
        close = lease.running == 0
        if not close and lease.free == 0:
            return
        self._returns.append(Return(new_id("ret"), lease.id, lease.free, close))
        self._returned.set()
        lease.free = 0
        if close:
            lease.gone = True
            tenant.leases.remove(lease)

    def _forget(self, lease: Lease) -> None:
        lease.gone = True
        lease.free = 0
        tenant = self._tenants.get(lease.tenant_id)
        if tenant is not None and lease in tenant.leases:
            tenant.leases.remove(lease)

    async def _send(self) -> None:
        away = Outage("billing (returns)")
        while True:
            await self._returned.wait()
            try:
                await self._flush()
                away.over()
            except CreditUnavailable as error:
                await away.wait(error)

    async def _flush(self) -> None:
        """Sends the returns that wait. Raises CreditUnavailable; then they wait on."""
        async with self._sending:
            self._returned.clear()
            returns, self._returns = self._returns, []
            if not returns:
                return
            try:
                await self._lender.give_back(returns)
            except BaseException:
                self._returns[:0] = returns
                self._returned.set()
                raise

    async def _listen(self) -> None:
        away = Outage("billing (recalls)")
        while True:
            try:
                async for tenant_id in self._lender.recalls():
                    away.over()
                    self.recall(tenant_id)
                raise CreditUnavailable  # whoever ends the stream is going away
            except CreditUnavailable as error:
                await away.wait(error)


def _rate(tenant: _Tenant, ceiling: int, now: float) -> None:
    """Smooths over about the horizon: what came before counts less, the longer ago."""
    elapsed = now - tenant.rated_at
    tenant.rate = tenant.rate * max(0.0, 1 - elapsed / HORIZON_SECONDS) + ceiling / HORIZON_SECONDS
    tenant.rated_at = now


def _reserve(tenant: _Tenant, ceiling: int, now: float) -> Hold | None:
    for lease in tenant.leases:
        if lease.free >= ceiling and lease.expires_at > now:
            lease.free -= ceiling
            lease.running += 1
            lease.used_at = now
            return Hold(ceiling, lease)
    return None


def _serve(tenant: _Tenant, now: float) -> None:
    """Admits those who wait, in their order, as far as the leases go."""
    while tenant.waiting:
        ceiling, waiter = tenant.waiting[0]
        if not waiter.done():
            hold = _reserve(tenant, ceiling, now)
            if hold is None:
                return
            waiter.set_result(hold)
        tenant.waiting.popleft()


def _refuse(tenant: _Tenant, among: int, least: int) -> None:
    """Refuses those of the first `among` who wait for `least` or more; 0: billing is away.

    They were there when billing was asked, so its answer is theirs too. Later ones ask again.
    """
    kept: list[tuple[int, asyncio.Future[Hold]]] = []
    for _ in range(among):
        ceiling, waiter = tenant.waiting.popleft()
        if ceiling < least:
            kept.append((ceiling, waiter))
        elif not waiter.done():
            refusal = InsufficientCredit(needed_nanos=ceiling) if least else CreditUnavailable()
            waiter.set_exception(refusal)
    tenant.waiting.extendleft(reversed(kept))


def _prolong(lease: Lease, asked_at: float, lifetime: float) -> None:
    """Its life counts from when billing was asked: from then on billing counts, at the latest."""
    lease.expires_at = max(lease.expires_at, asked_at + lifetime)
    lease.renew_at = asked_at + lifetime / 3


def _drop_expired(tenant: _Tenant, now: float) -> None:
    for lease in [lease for lease in tenant.leases if lease.expires_at <= now]:
        lease.gone = True
        lease.free = 0
        tenant.leases.remove(lease)
