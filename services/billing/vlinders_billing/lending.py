"""Lending: one request for credit, through recall and wait, to a lease or a refusal."""

import asyncio
import time
from contextlib import suppress

from vlinders_billing import leases, ledger, recalls, wallets
from vlinders_billing.errors import InsufficientCredit
from vlinders_billing.leases import Ask, Short
from vlinders_billing.ledger import wallet_of
from vlinders_billing.recalls import Recalls, Wait
from vlinders_billing.settings import BillingSettings
from vlinders_kit.db import Database

LOOK_AGAIN_SECONDS = 0.25
"""How soon a waiting request looks by itself, should a notification be lost."""


class Lending:
    """Lends from wallets. Each attempt is a unit of work; none is open while it waits."""

    def __init__(self, db: Database, told: Recalls, settings: BillingSettings) -> None:
        self.db = db
        self.told = told
        self.lifetime = settings.lease_lifetime
        self.wait_seconds = settings.recall_wait.total_seconds()
        self.grants = settings.grants

    async def lend(self, ask: Ask) -> int:
        """The nanos granted: at least the least, at most what is wanted; the same for the same id.

        Idle money elsewhere is recalled and waited for. Raises InsufficientCredit when that does
        not help, and as soon as it cannot: all that is elsewhere is too little, or who holds it
        answers that nothing is idle. Raises LeaseConflict and LeaseOver as `leases.acquire` does.
        """
        until = time.monotonic() + self.wait_seconds
        with self.told.waiting(ask.tenant_id, ask.lease_id) as wait:
            found = await self._try(ask, wait, recall=True)
            while isinstance(found, Short):
                left = until - time.monotonic()
                if left <= 0 or found.available_nanos + found.elsewhere_nanos < ask.least_nanos:
                    raise InsufficientCredit(
                        available_nanos=found.available_nanos, needed_nanos=ask.least_nanos
                    )
                woken = await _set_within(wait.news, min(left, LOOK_AGAIN_SECONDS))
                wait.news.clear()
                # Without news, whoever has been lent the money meanwhile is asked as well.
                found = await self._try(ask, wait, recall=not woken)
        return found

    async def _try(self, ask: Ask, wait: Wait, *, recall: bool) -> int | Short:
        account_id = wallet_of(ask.tenant_id)
        async with self.db.begin() as tx:
            locked = await ledger.lock(tx, [account_id])
            if account_id in locked:
                found = await leases.acquire(
                    tx, ask, locked[account_id], self.lifetime, busy=wait.busy
                )
                if recall and isinstance(found, Short) and found.elsewhere_nanos:
                    await recalls.tell_wanted(tx, ask.tenant_id, ask.holder, ask.lease_id)
                return found
            # Its TenantCreated has not come yet. Opened on its own, since it wants other locks.
            await wallets.open(tx, [ask.tenant_id], self.grants)
        return await self._try(ask, wait, recall=recall)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
