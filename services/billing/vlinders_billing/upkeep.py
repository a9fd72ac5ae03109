"""Upkeep: what must be done from time to time, by one replica at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from sqlalchemy import text

from vlinders_billing import audit, leases, measures, partitions, usage
from vlinders_billing.settings import BillingSettings
from vlinders_kit import logs
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database, Tx, unavailable
from vlinders_kit.outages import Outage

HOURLY = timedelta(hours=1)
LOOK = timedelta(seconds=15)

_ALONE = text("SELECT pg_try_advisory_xact_lock(hashtext('vlinders.billing.' || :job))")
_CLAIM = text("""
    INSERT INTO job (name, due_at) VALUES (:name, now() + :again)
    ON CONFLICT (name) DO UPDATE SET due_at = now() + :again WHERE job.due_at <= now()
    RETURNING name
""")
_DONE = text("UPDATE job SET due_at = now() + :interval WHERE name = :name")

log = logs.get(__name__)


class Upkeep:
    """The service's jobs. A job that fails, as it does without the database, comes again."""

    def __init__(self, db: Database, settings: BillingSettings, clock: Clock) -> None:
        self.db = db
        self.settings = settings
        self.clock = clock

    async def run(self) -> None:
        """Does all of them, each when it is due, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_every(self.settings.sweep_interval, self.sweep))
            tasks.create_task(_every(HOURLY, self.make_partitions))
            tasks.create_task(_every(HOURLY, self.forget))
            tasks.create_task(_every(LOOK, self.look))
            tasks.create_task(_every(min(self.settings.audit_interval, HOURLY), self.audit))

    async def sweep(self) -> None:
        """Has the money of expired leases go back."""
        await self._all("sweep", lambda tx: leases.sweep(tx, self.settings.lease_grace))

    async def look(self) -> None:
        """Has scrapes know what is lent."""
        async with self.db.begin() as tx:
            await measures.lent(tx)

    async def forget(self) -> None:
        """Deletes leases that nobody can ask for any more, and what says of requests that nobody
        can tell again that they were settled."""
        await self._all("forget", leases.forget)
        await self._all("forget requests", usage.forget)

    async def make_partitions(self) -> None:
        """Makes the partitions of this month and the next before anything is written there."""
        month = partitions.month_of(self.clock.now())
        async with self.db.begin() as tx:
            await partitions.ensure(tx, (month, partitions.next_month(month)))

    async def audit(self) -> audit.Audit | None:
        """Proves the ledger, if no replica has within the interval; an unsound one is an alert.

        A run that fails, or dies, is due again in an hour.
        """
        async with self.db.begin() as tx:
            if await tx.scalar(_CLAIM, {"name": "audit", "again": HOURLY}) is None:
                return None
        async with self.db.begin() as tx:
            found = await audit.audit(tx)
        async with self.db.begin() as tx:
            await tx.execute(_DONE, {"name": "audit", "interval": self.settings.audit_interval})
        measures.proved(found)
        told = log.info if found.sound else log.error
        told(
            "ledger_audited",
            alert=not found.sound,
            sound=found.sound,
            accounts=found.accounts,
            postings=found.postings,
            digest=found.digest,
            findings=found.findings,
        )
        return found

    async def _all(self, job: str, batch: Callable[[Tx], Awaitable[bool]]) -> None:
        """Does batch after batch, each in its own transaction, unless another replica does."""
        more = True
        while more:
            async with self.db.begin() as tx:
                more = bool(await tx.scalar(_ALONE, {"job": job})) and await batch(tx)


async def _every(interval: timedelta, job: Callable[[], Awaitable[object]]) -> None:
    away = Outage(f"database ({job.__name__})")
    while True:
        try:
            await job()
            away.over()
        except Exception as error:  # it must not end the others, and it is due again
            if unavailable(error):
                await away.wait(error)
                continue
            log.error("upkeep_failed", alert=True, job=job.__name__, exc_info=error)
        await asyncio.sleep(interval.total_seconds())
