"""The bus in a Postgres database of its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg

from vlinders_kit.bus import PARTITIONS, RETENTION, Envelope, partition_of
from vlinders_kit.bus.broadcasts import Callback, tell
from vlinders_kit.bus.membership import (
    POLL_SECONDS,
    Connection,
    Member,
    Positions,
    key_of,
    read,
    speaking,
)
from vlinders_kit.notices import Notices
from vlinders_kit.outages import Outage
from vlinders_kit.postgres import connect

PRUNE_SECONDS = 3600.0
PRUNE_BATCH = 5_000

_LOCK = "SELECT pg_advisory_xact_lock(key) FROM unnest(%s::bigint[]) AS key"
_COPY = "COPY event (topic, partition, id, key, type, body, error) FROM STDIN (FORMAT BINARY)"
_COLUMNS = ("text", "int2", "uuid", "text", "text", "bytea", "text")
_NOTIFY = "SELECT pg_notify(topic, '') FROM unnest(%s::text[]) AS topic"
_PRUNE = """
    DELETE FROM event WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM event WHERE at < now() - %s ORDER BY at LIMIT %s FOR UPDATE SKIP LOCKED
    ))
"""
_ENDS = """
    SELECT topic, partition, coalesce((
        SELECT max(number) FROM event
        WHERE event.topic = places.topic AND event.partition = places.partition
    ), 0)
    FROM (
        SELECT topic, partition
        FROM unnest(%s::text[]) AS topic, generate_series(0, %s - 1) AS partition
    ) AS places
"""


class PostgresBus:
    """A bus in the database at `url`; a pooler in between must hand out whole sessions."""

    def __init__(self, url: str, client_id: str) -> None:
        self._url = url
        self._client_id = client_id
        self._sender: Connection | None = None
        self._sending = asyncio.Lock()
        self._prune_at = time.monotonic() + PRUNE_SECONDS

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        topics = sorted({envelope.topic for envelope in envelopes})
        async with self._sending:
            try:
                with speaking():
                    if self._sender is None:
                        self._sender = await connect(self._url, self._client_id)
                    async with self._sender.transaction():
                        # One writer of a topic at a time, so that its numbers become visible in
                        # their order: a reader that has seen 7 never looks for 6 again.
                        keys = [key_of(topic) for topic in topics]
                        await self._sender.execute(_LOCK, (keys,))
                        await _write(self._sender, envelopes)
                        await self._sender.execute(_NOTIFY, (topics,))
                    await self._prune(self._sender)
            except BaseException:  # of a cancelled one, too, nobody knows how far it came
                await self._disconnect()
                raise

    @asynccontextmanager
    async def subscribe(self, group: str, topics: Sequence[str]) -> AsyncIterator[Member]:
        with speaking():
            connection = await connect(self._url, self._client_id)
        async with connection:
            member = Member(connection, group, topics)
            await member.join()
            try:
                yield member
            finally:
                await member.leave()

    async def broadcast(
        self,
        topics: Sequence[str],
        callback: Callback,
        *,
        started: asyncio.Event | None = None,
    ) -> None:
        outage = Outage("bus")
        positions: Positions = {}  # outlives a connection, so that an outage hides nothing
        while True:
            try:
                async with await connect(self._url, self._client_id) as connection:
                    notices = Notices(connection)
                    await notices.listen(*topics)
                    if not positions:
                        ends = await connection.execute(_ENDS, (list(topics), PARTITIONS))
                        positions = {(row[0], row[1]): row[2] for row in await ends.fetchall()}
                    outage.over()
                    if started is not None:
                        started.set()
                    while True:
                        found = await read(connection, positions)
                        for place, number, envelope in found:
                            positions[place] = number
                            tell(callback, envelope.type, envelope.body)
                        await notices.within(0 if found else POLL_SECONDS)
            except psycopg.Error as error:
                await outage.wait(error)

    async def close(self) -> None:
        await self._disconnect()

    async def _disconnect(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            await sender.close()

    async def _prune(self, connection: Connection) -> None:
        """Forgets some of what is older than is kept; the senders of one bus share this work."""
        if time.monotonic() < self._prune_at:
            return
        found = await connection.execute(_PRUNE, (RETENTION, PRUNE_BATCH))
        if found.rowcount < PRUNE_BATCH:
            self._prune_at = time.monotonic() + PRUNE_SECONDS


async def _write(connection: Connection, envelopes: Sequence[Envelope]) -> None:
    async with connection.cursor().copy(_COPY) as copy:
        copy.set_types(_COLUMNS)
        for it in envelopes:
            partition = partition_of(it.key)
            await copy.write_row((it.topic, partition, it.id, it.key, it.type, it.body, it.error))
