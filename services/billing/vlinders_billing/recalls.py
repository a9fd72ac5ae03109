"""Recalls: who wants money that is lent but idle, and who waits for it, across all replicas.

Replicas tell each other by Postgres NOTIFY, so what is told is what was committed. A notification
that is lost costs time and nothing else: whoever waits looks again by himself.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import text

from vlinders_kit.db import Tx
from vlinders_kit.notices import Notices
from vlinders_kit.outages import Outage
from vlinders_kit.postgres import connect

WANTED = "credit_wanted"
"""Channel: a holder wants a tenant's idle money."""

BACK = "credit_back"
"""Channel: money of a tenant has come back to its wallet."""

_TELL = text("SELECT pg_notify(:channel, told) FROM unnest(CAST(:told AS text[])) AS told")


async def tell_wanted(tx: Tx, tenant_id: str, by: str) -> None:
    """Recalls the tenant's idle money from all holders but `by`, if `tx` commits."""
    await tx.execute(_TELL, {"channel": WANTED, "told": [json.dumps([tenant_id, by])]})


async def tell_back(tx: Tx, tenant_ids: Iterable[str]) -> None:
    """Wakes whoever waits for money of these tenants, if `tx` commits."""
    await tx.execute(_TELL, {"channel": BACK, "told": list(tenant_ids)})


class Recalls:
    """What this replica hears: for the holders that watch here, and the requests that wait here."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._watchers: set[_Watcher] = set()
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._closed = False
        self.listening = asyncio.Event()
        """Set while notifications come."""

    async def run(self) -> None:
        """Listens until cancelled, through outages of the database."""
        away = Outage("database")
        while True:
            try:
                async with await connect(self._url, "recalls") as connection:
                    notices = Notices(connection)
                    await notices.listen(WANTED, BACK)
                    away.over()
                    self.listening.set()
                    while True:
                        for notice in await notices.within(None):
                            self._hear(notice)
            except psycopg.Error as error:
                self.listening.clear()
                await away.wait(error)

    async def watch(self, holder: str) -> AsyncIterator[str]:
        """The tenants whose idle money others than `holder` want, until `close`."""
        watcher = _Watcher(holder)
        self._watchers.add(watcher)
        try:
            while not self._closed:
                for tenant_id in watcher.take():
                    yield tenant_id
                await watcher.told.wait()
        finally:
            self._watchers.discard(watcher)

    @contextmanager
    def waiting(self, tenant_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever money of the tenant has come back."""
        back = asyncio.Event()
        self._waiting[tenant_id].add(back)
        try:
            yield back
        finally:
            self._waiting[tenant_id].discard(back)
            if not self._waiting[tenant_id]:
                del self._waiting[tenant_id]

    async def close(self) -> None:
        """Ends what watches, so that the server can stop."""
        self._closed = True
        for watcher in self._watchers:
            watcher.told.set()

    def _hear(self, notice: psycopg.Notify) -> None:
        if notice.channel == BACK:
            for back in self._waiting.get(notice.payload, ()):
                back.set()
            return
        tenant_id, by = json.loads(notice.payload)
        for watcher in self._watchers:
            if watcher.holder != by:
                watcher.tell(tenant_id)


class _Watcher:
    """A holder that listens. Each tenant waits once for it, however slowly it reads."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.told = asyncio.Event()
        self._tenants: dict[str, None] = {}

    def tell(self, tenant_id: str) -> None:
        self._tenants[tenant_id] = None
        self.told.set()

    def take(self) -> list[str]:
        tenants = list(self._tenants)
        self._tenants.clear()
        self.told.clear()
        return tenants
