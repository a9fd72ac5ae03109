"""The relay: brings what a service has published to the bus, in order, and then forgets it."""

import asyncio
import time
from typing import Any

import psycopg
from prometheus_client import Counter, Gauge

from vlinders_kit.bus import Bus, BusUnavailable, Envelope
from vlinders_kit.db import Database
from vlinders_kit.events import CHANNEL
from vlinders_kit.notices import Notices
from vlinders_kit.outages import Outage
from vlinders_kit.postgres import connect

BATCH = 500
BATCH_BYTES = 1 << 20
"""Events that are read, sent and deleted together, at most: bounds memory and what comes twice."""

GATHER_SECONDS = 0.05
"""Least time between the beginnings of two batches that are not full.

An event that comes alone goes at once. Where many come, larger batches cost less for each.
"""

POLL_SECONDS = 1.0
"""How soon the outbox is looked at without being told: should a notification be lost."""

MEASURE_SECONDS = 10.0
_LOCK = "SELECT pg_try_advisory_lock(hashtext('vlinders.relay'))"
_READ = """
    SELECT seq, id, topic, key, type, body FROM (
        SELECT *, sum(length(body)) OVER (ORDER BY seq) - length(body) AS before
        FROM (SELECT * FROM outbox ORDER BY seq LIMIT %s) AS first
    ) AS summed WHERE before < %s ORDER BY seq
"""
# By number, not up to the last: a transaction that began earlier may commit a lower one meanwhile.
_FORGET = "DELETE FROM outbox WHERE seq = ANY(%s)"
_MEASURE = """
    SELECT (SELECT count(*) FROM (SELECT FROM outbox LIMIT 100000) AS counted),
        coalesce((SELECT extract(epoch FROM now() - at) FROM outbox ORDER BY seq LIMIT 1), 0)
"""

_DEPTH = Gauge("vlinders_outbox_events", "Events that the bus does not have yet; 100000 is more.")
_AGE = Gauge("vlinders_outbox_oldest_seconds", "Age of the oldest event the bus does not have.")
_SENT = Counter("vlinders_outbox_sent_total", "Events brought to the bus.")

_Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class Relay:
    """Moves the outbox of `db` to `bus`; of all relays of one database, one at a time does.

    An event is deleted when the bus has kept it. A relay that dies in between sends it again: the
    inbox of whoever gets it knows.
    """

    def __init__(self, db: Database, bus: Bus, *, gather: float = GATHER_SECONDS) -> None:
        self._url = db.url
        self._gather = gather
        self._bus = bus
        self._away = Outage("bus")
        self._measured = 0.0

    async def run(self) -> None:
        """Goes on until cancelled, through outages of the database and the bus."""
        database = Outage("database")
        while True:
            try:
                async with await connect(self._url, "relay") as connection:
                    database.over()
                    await self._lead(connection)
            except psycopg.Error as error:
                await database.wait(error)

    async def _lead(self, connection: _Connection) -> None:
        # Asked again and again: a wait inside Postgres would keep a snapshot, and hold up vacuum.
        while not (await _row(connection, _LOCK))[0]:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)
        try:
            await self._relay(connection)
        finally:
            _DEPTH.set(0)  # whoever leads next tells
            _AGE.set(0)

    async def _relay(self, connection: _Connection) -> None:
        notices = Notices(connection)
        await notices.listen(CHANNEL)
        self._measured = 0.0
        while True:
            began = time.monotonic()
            if began - self._measured > MEASURE_SECONDS:
                await self._measure(connection)
            try:
                moved, full = await self._move(connection)
                self._away.over()
            except BusUnavailable as error:
                await self._away.wait(error)
                continue
            if moved and not full:
                await asyncio.sleep(began + self._gather - time.monotonic())
            await notices.within(0 if moved else POLL_SECONDS)

    async def _move(self, connection: _Connection) -> tuple[int, bool]:
        """Moves a batch; says how many events it had, and whether it was as large as can be."""
        cursor = await connection.cursor(binary=True).execute(_READ, (BATCH, BATCH_BYTES))
        rows = await cursor.fetchall()
        if rows:
            await self._bus.send([Envelope(*row[1:]) for row in rows])
            await connection.execute(_FORGET, ([row[0] for row in rows],))
            _SENT.inc(len(rows))
        full = len(rows) == BATCH or sum(len(row[5]) for row in rows) >= BATCH_BYTES
        return len(rows), full

    async def _measure(self, connection: _Connection) -> None:
        depth, age = await _row(connection, _MEASURE)
        _DEPTH.set(depth)
        _AGE.set(float(age))
        self._measured = time.monotonic()


async def _row(connection: _Connection, query: str) -> tuple[Any, ...]:
    return (await (await connection.execute(query)).fetchall())[0]
