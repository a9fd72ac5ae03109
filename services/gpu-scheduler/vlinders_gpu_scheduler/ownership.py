"""Ownership: one replica acts for a resource, by a row in Postgres and a term that only rises.

The row is judged by one clock, the database's. An owner that is lost is followed once its time is
over; one that was merely asleep finds a higher term, and everything it still writes is refused by
`require`. An owner that cannot reach the database goes on: without the database nobody can follow.
"""

import asyncio
import contextlib
from datetime import timedelta

from sqlalchemy import text

from vlinders_gpu_scheduler.errors import NotActive
from vlinders_kit import logs
from vlinders_kit.db import Database, Tx
from vlinders_kit.outages import Outage

VALID = timedelta(seconds=4)
"""How long ownership lasts without being renewed: an owner that is killed is followed within five
seconds, for which inference can do without."""

RENEW_SECONDS = 1.0
TRY_SECONDS = 0.5
"""Between two tries of a standby."""

PATIENCE_SECONDS = 2.0
"""What a statement may take, connecting included."""

_TAKE = text("""
    INSERT INTO owner (resource, holder, term, until)
    VALUES (:resource, :holder, 1, clock_timestamp() + :valid)
    ON CONFLICT (resource) DO UPDATE
        SET holder = excluded.holder, term = owner.term + 1, until = excluded.until
        WHERE owner.until <= clock_timestamp() OR owner.holder = excluded.holder
    RETURNING term
""")
_RENEW = text("""
    UPDATE owner SET until = clock_timestamp() + :valid
    WHERE resource = :resource AND term = :term AND holder = :holder
    RETURNING term
""")
_RELEASE = text("""
    UPDATE owner SET holder = '', until = clock_timestamp()
    WHERE resource = :resource AND term = :term
""")
_REQUIRE = text("SELECT term FROM owner WHERE resource = :resource AND term = :term FOR SHARE")

log = logs.get(__name__)


async def require(tx: Tx, resource: str, term: int) -> None:
    """Raises NotActive unless `term` is the present one; it stays so until `tx` ends."""
    if await tx.scalar(_REQUIRE, {"resource": resource, "term": term}) is None:
        raise NotActive


class Ownership:
    """The claim of `holder` to `resource`.

    A holder that comes again, after a crash, follows itself at once: its name must be its own.
    """

    def __init__(self, db: Database, resource: str, holder: str) -> None:
        self.resource = resource
        self.term: int | None = None
        self._db = db
        self._holder = holder
        self._poked = asyncio.Event()

    async def take(self) -> int:
        """Waits until the resource is ours, through outages; answers the new term."""
        away = Outage("database")
        while True:
            try:
                self.term = await self._ask(_TAKE, valid=VALID)
            except Exception as error:  # whatever it is, there is no acting without the row
                await away.wait(error)
                continue
            away.over()
            if self.term is not None:
                log.info("ownership_taken", resource=self.resource, term=self.term)
                return self.term
            await asyncio.sleep(TRY_SECONDS)

    async def keep(self) -> None:
        """Renews the term until another has followed it."""
        away = Outage("database", first=RENEW_SECONDS, longest=RENEW_SECONDS)
        while True:
            try:
                renewed = await self._ask(_RENEW, term=self.term, valid=VALID)
            except Exception as error:  # nobody can follow either
                await away.wait(error)
                continue
            away.over()
            if renewed is None:
                log.warning("ownership_lost", resource=self.resource, term=self.term)
                self.term = None
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS):
                    await self._poked.wait()
            self._poked.clear()

    def poke(self) -> None:
        """Has the term be renewed, or found lost, at once: we may have been asleep."""
        self._poked.set()

    async def release(self) -> None:
        """Gives the resource up, so that another need not wait."""
        if self.term is not None:
            with contextlib.suppress(Exception):  # then it is over by itself
                await self._ask(_RELEASE, term=self.term)

    async def _ask(self, statement: object, **values: object) -> int | None:
        named = {"resource": self.resource, "holder": self._holder, **values}
        async with asyncio.timeout(PATIENCE_SECONDS), self._db.begin() as tx:
            found = await tx.execute(statement, named)  # type: ignore[call-overload]
            return found.scalar() if found.returns_rows else None
