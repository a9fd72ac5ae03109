"""Admission: every request takes the most that it may cost from a lease, before anything is spent.

A lease is a part of a tenant's wallet that billing has set aside for this replica. Admitting from
one is arithmetic in memory; billing is asked when leases run low, are to be prolonged, or idle.
What this replica admits never exceeds what it was lent, whatever billing, network and clocks do.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from vlinders_inference.errors import CreditUnavailable, InsufficientCredit
from vlinders_inference.leases import Hold, Lease, Leases
from vlinders_kit import logs, metrics
from vlinders_kit.clock import Clock
from vlinders_kit.ids import new_id
from vlinders_kit.outages import Outage

SCARCE_SECONDS = 10.0
"""How long a wallet that lent less than was wanted is asked for one request's ceiling at a time."""

IDLE_SECONDS = 3.0
"""After so long without an admission, a lease gives back what no running request may need."""

TICK_SECONDS = 1.0
"""How often leases are prolonged, given back or dropped."""

FORGET_SECONDS = 60.0
"""After so long without a request, a tenant without leases is forgotten."""

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
    """Nothing more will be admitted from the lease; usage that is under way still settles it."""


@dataclass(frozen=True, slots=True)
class Recall:
    """Idle credit of a tenant is wanted elsewhere, by those who wait under these ids."""

    tenant_id: str
    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """To one of them: what is in these leases is held by running requests."""

    recall_id: str
    busy: Sequence[str]


class Lender(Protocol):
    """Billing, as admission needs it. Every call has a deadline and raises CreditUnavailable."""

    async def acquire(self, lease_id: str, tenant_id: str, *, least: int, wanted: int) -> Granted:
        """Raises InsufficientCredit when less than `least` can be had."""
        ...

    async def renew(self, lease_ids: Sequence[str]) -> tuple[float, Sequence[str]]:
        """The lifetime from when it was asked, and the leases that are over."""
        ...

    async def give_back(self, returns: Sequence[Return], answers: Sequence[Answer]) -> None: ...

    def recalls(self) -> AsyncIterator[Recall]:
        """What is recalled, as long as the stream holds."""
        ...


class CreditBook:
    """The leases of this replica. `run` looks after them; `close` gives them back."""

    def __init__(self, lender: Lender, clock: Clock) -> None:
        self._lender = lender
        self._clock = clock
        self._tenants: dict[str, Leases] = {}
        self._returns: list[Return] = []
        self._answers: list[Answer] = []
        self._returned = asyncio.Event()
        self._sending = asyncio.Lock()
        self._reachable = True
        """Whether billing answered when it was asked last."""
        metrics.gauge(
            "vlinders_inference_leases",
            "Credit leases that are open here.",
            lambda: sum(1 for each in self._tenants.values() for _ in each),
        )
        metrics.gauge(
            "vlinders_inference_lease_free_nanos",
            "Credit that requests can be admitted from at once.",
            lambda: sum(lease.free for each in self._tenants.values() for lease in each),
        )

    async def take(self, tenant_id: str, ceiling: int) -> Hold:
        """Admits a request that costs `ceiling` nanos at most.

        Raises InsufficientCredit when the wallet has not that much to lend, and CreditUnavailable
        when no open lease covers it and billing does not answer. Whoever takes settles.
        """
        if ceiling == 0:
            return Hold(0, None)
        now = self._clock.monotonic()
        leases = self._tenants.get(tenant_id)
        if leases is None:
            leases = self._tenants[tenant_id] = Leases(now)
        leases.note(ceiling, now)
        if not leases.waiting and (hold := leases.reserve(ceiling, now)) is not None:
            return hold
        waiter = leases.wait(ceiling)
        if leases.asking is None:
            leases.asking = asyncio.create_task(self._ask(tenant_id, leases), name="lease")
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                waiter.result().settle(0)
            raise

    def recall(self, recall: Recall) -> None:
        """Gives back at once what no running request of the tenant may need, and says what they do.

        A lease that is on its way here is none that is spoken of: what of it will be idle, nobody
        knows yet.
        """
        leases = self._tenants.get(recall.tenant_id)
        if leases is None:
            return
        if not leases.waiting:
            self._give_back_idle(leases)
        if busy := [lease.id for lease in leases if lease.free == 0]:
            self._answers += [Answer(id, busy) for id in recall.ids]
            self._returned.set()

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
        for leases in self._tenants.values():
            for lease in leases.expired(now):
                leases.drop(lease)
        await self._renew()
        for tenant_id, leases in list(self._tenants.items()):
            # While billing is away nobody could use what goes back, so it is kept for requests.
            if self._reachable and not leases.waiting:
                for lease in leases:
                    if now - lease.used_at >= IDLE_SECONDS:
                        self._return(leases, lease)
            idle = not leases.open and not leases.waiting
            if idle and now - leases.seen_at > FORGET_SECONDS:
                del self._tenants[tenant_id]

    async def close(self) -> None:
        """Gives back everything, once no request runs any more."""
        for leases in self._tenants.values():
            if leases.asking is not None:
                leases.asking.cancel()
            self._give_back_idle(leases)
        await self._flush()

    async def _ask(self, tenant_id: str, leases: Leases) -> None:
        """Gets leases until nobody of the tenant waits. One at a time for each tenant."""
        try:
            while least := leases.serve(self._clock.monotonic()):
                await self._acquire(tenant_id, leases, least)
        finally:
            leases.asking = None

    async def _acquire(self, tenant_id: str, leases: Leases, least: int) -> None:
        """Gets one lease of at least `least`, or refuses whom the refusal concerns."""
        # What is left of other leases, each too small, would be missing in the wallet.
        self._give_back_idle(leases)
        among, asked_at = leases.waiting, self._clock.monotonic()
        wanted, lease_id = leases.wanted(least, asked_at), new_id("lease")
        try:
            with suppress(CreditUnavailable):  # then what was returned is missing, no more
                await self._flush()
            granted = await self._lender.acquire(lease_id, tenant_id, least=least, wanted=wanted)
        except InsufficientCredit:
            leases.scarce_until = asked_at + SCARCE_SECONDS
            leases.refuse(among, least)
            return
        except Exception as error:  # nobody may wait for ever, whatever it is
            if not isinstance(error, CreditUnavailable):
                log.error("lease_failed", exc_info=error)
            leases.refuse(among, 0)
            # It may have been lent, and only the answer was lost. Nothing is admitted from it, so
            # all of it goes back, rather than be held until it expires.
            self._give_back(Return(new_id("ret"), lease_id, max(wanted, least), close=True))
            return
        if granted.nanos < wanted:
            leases.scarce_until = asked_at + SCARCE_SECONDS
        lease = Lease(lease_id, granted.nanos, used_at=self._clock.monotonic())
        lease.prolong(asked_at, granted.lifetime)
        leases.open.append(lease)

    async def _renew(self) -> None:
        asked_at = self._clock.monotonic()
        found = {lease.id: (lease, own) for own in self._tenants.values() for lease in own}
        if all(lease.renew_at > asked_at for lease, _ in found.values()):
            return
        try:
            lifetime, gone = await self._lender.renew(list(found))
        except CreditUnavailable:
            self._reachable = False
            return  # what is open goes on until it is spent or expired
        self._reachable = True
        over = set(gone)
        for lease, leases in found.values():
            if lease not in leases.open:
                continue  # it was returned meanwhile
            if lease.id in over:
                leases.drop(lease)
            else:
                lease.prolong(asked_at, lifetime)

    def _give_back_idle(self, leases: Leases) -> None:
        for lease in leases:
            self._return(leases, lease)

    def _return(self, leases: Leases, lease: Lease) -> None:
        """Returns what is free of a lease, and closes it when no request of it runs."""
        close = lease.running == 0
        if not close and lease.free == 0:
            return
        self._give_back(Return(new_id("ret"), lease.id, lease.free, close))
        lease.free = 0
        if close:
            leases.drop(lease)

    def _give_back(self, returned: Return) -> None:
        self._returns.append(returned)
        self._returned.set()

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
        """Sends the returns and answers that wait. Raises CreditUnavailable; returns wait on."""
        async with self._sending:
            self._returned.clear()
            returns, self._returns = self._returns, []
            # One that is lost is asked for again, if anybody still wants to know.
            answers, self._answers = self._answers, []
            if not returns and not answers:
                return
            try:
                await self._lender.give_back(returns, answers)
                self._reachable = True
            except BaseException:
                self._reachable = False
                self._returns[:0] = returns
                self._returned.set()
                raise

    async def _listen(self) -> None:
        away = Outage("billing (recalls)")
        while True:
            try:
                async for recall in self._lender.recalls():
                    away.over()
                    self.recall(recall)
                raise CreditUnavailable  # whoever ends the stream is going away
            except CreditUnavailable as error:
                await away.wait(error)
