"""Recalls: who wants money that is lent but idle, and who waits for it, across all replicas.

Replicas tell each other by Postgres NOTIFY, so what is told is what was committed. A notification
that is lost costs time and nothing else: whoever waits looks again by himself.
"""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from sqlalchemy import text

from vlinders_kit.db import Tx
from vlinders_kit.notices import Notices
from vlinders_kit.outages import Outage
from vlinders_kit.postgres import connect

WANTED = "credit_wanted"
"""Channel: a holder wants a tenant's idle money."""

BACK = "credit_back"
"""Channel: money of a tenant has come back to its wallet, or is known not to."""

ANSWERED = "credit_answered"
"""Channel: nothing is idle in some leases, as their holder answers a recall."""

RECALLS_KEPT = 100
"""Of the recalls of a tenant, those that a holder who reads slowly is told of: the latest."""

_LEASES_TOLD = 100
"""In one notification, which has 8,000 bytes at most."""

_TELL = text("SELECT pg_notify(:channel, told) FROM unnest(CAST(:told AS text[])) AS told")


async def tell_wanted(tx: Tx, tenant_id: str, by: str, recall_id: str) -> None:
    """Recalls the tenant's idle money from all holders but `by`, if `tx` commits."""
    await tx.execute(_TELL, {"channel": WANTED, "told": [json.dumps([tenant_id, by, recall_id])]})


async def tell_back(tx: Tx, tenant_ids: Iterable[str]) -> None:
    """Wakes whoever waits for money of these tenants to look again, if `tx` commits."""
    await tx.execute(_TELL, {"channel": BACK, "told": list(tenant_ids)})


async def tell_answered(tx: Tx, recall_id: str, busy_lease_ids: Sequence[str]) -> None:
    """Tells whoever recalls that these leases have nothing idle, if `tx` commits."""
    told = [
        json.dumps([recall_id, *busy_lease_ids[first : first + _LEASES_TOLD]])
        for first in range(0, len(busy_lease_ids), _LEASES_TOLD)
    ]
    await tx.execute(_TELL, {"channel": ANSWERED, "told": told})


@dataclass(frozen=True, slots=True)
class Recall:
    """What a holder is told: whose idle money is wanted, and for which recalls."""

    tenant_id: str
    ids: Sequence[str]


class Wait:
    """What a request that waits for money hears."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        """Set whenever there is some."""
        self.busy: set[str] = set()
        """Leases that were answered to have nothing idle."""


class Recalls:
    """What this replica hears: for the holders that watch here, and the requests that wait here."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._watchers: set[_Watcher] = set()
        self._waiting: defaultdict[tuple[str, str], set[Wait]] = defaultdict(set)
        """By the channel, and the tenant or recall, that they hear of."""
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
                    await notices.listen(WANTED, BACK, ANSWERED)
                    away.over()
                    self.listening.set()
                    while True:
                        for notice in await notices.within(None):
                            self._hear(notice)
            except psycopg.Error as error:
                self.listening.clear()
                await away.wait(error)

    async def watch(self, holder: str) -> AsyncIterator[Recall]:
        """Whose idle money others than `holder` want, until `close`."""
        watcher = _Watcher(holder)
        self._watchers.add(watcher)
        try:
            while not self._closed:
                for recall in watcher.take():
                    yield recall
                await watcher.told.wait()
        finally:
            self._watchers.discard(watcher)

    @contextmanager
    def waiting(self, tenant_id: str, recall_id: str) -> Iterator[Wait]:
        """Hears of money of the tenant that has come back, and of answers to the recall."""
        wait, keys = Wait(), ((BACK, tenant_id), (ANSWERED, recall_id))
        for key in keys:
            self._waiting[key].add(wait)
        try:
            yield wait
        finally:
            for key in keys:
                self._waiting[key].discard(wait)
                if not self._waiting[key]:
                    del self._waiting[key]

    async def close(self) -> None:
        """Ends what watches, so that the server can stop."""
        self._closed = True
        for watcher in self._watchers:
            watcher.told.set()

    def _hear(self, notice: psycopg.Notify) -> None:
        if notice.channel == WANTED:
            tenant_id, by, *recall_ids = json.loads(notice.payload)
            for watcher in self._watchers:
                if watcher.holder != by:
                    watcher.tell(tenant_id, recall_ids)
            return
        about, busy = notice.payload, []
        if notice.channel == ANSWERED:
            about, *busy = json.loads(notice.payload)
        for wait in self._waiting.get((notice.channel, about), ()):
            wait.busy.update(busy)
            wait.news.set()


class _Watcher:
    """A holder that listens. Each tenant waits once for it, however slowly it reads."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.told = asyncio.Event()
        self._tenants: defaultdict[str, deque[str]] = defaultdict(
            lambda: deque(maxlen=RECALLS_KEPT)
        )

    def tell(self, tenant_id: str, recall_ids: Iterable[str]) -> None:
        kept = self._tenants[tenant_id]
        kept.extend(id for id in recall_ids if id not in kept)
        self.told.set()

    def take(self) -> list[Recall]:
        recalls = [Recall(tenant_id, tuple(ids)) for tenant_id, ids in self._tenants.items()]
        self._tenants.clear()
        self.told.clear()
        return recalls
