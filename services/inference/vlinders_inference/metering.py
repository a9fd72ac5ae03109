"""Metering: the record of every request is in the database before the client hears of its end.

Records that come while others are being written go together in the next statement, so that one
costs some ten microseconds under load; a statement for each would cost ten times as much.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import psycopg

from vlinders.inference.v1.events_pb2 import UsageRecorded
from vlinders_inference import measures
from vlinders_inference.errors import UsageNotKept
from vlinders_kit import logs
from vlinders_kit.bus import Envelope
from vlinders_kit.db import connect
from vlinders_kit.events import envelope
from vlinders_kit.ids import uuid7

WINDOW_SECONDS = 0.004
"""Least time between the beginnings of two writes, where records come in numbers."""

FEW = 4
"""Records of one write after which the next does not wait: nobody would come to join it."""

PATIENCE_SECONDS = 5.0
"""How long the end of an answer waits for its record."""

WRITE_SECONDS = 2.0
"""How long one write may take."""

MOST_ROWS = 1000
"""Of one statement."""

# With the ids of the first try: a write whose answer was lost may come twice, and then counts once
# for whoever consumes it.
_WRITE = """
    WITH written AS (
        INSERT INTO outbox (id, topic, key, type, body)
        SELECT * FROM unnest(%b::uuid[], %b::text[], %b::text[], %b::text[], %b::bytea[])
    )
    SELECT pg_notify('outbox', '')
"""

_Connection = psycopg.AsyncConnection[tuple[Any, ...]]

log = logs.get(__name__)


@dataclass(slots=True, eq=False)
class _Record:
    envelope: Envelope
    kept: "asyncio.Future[None]"
    since: float


class UsageLog:
    """Writes records into the outbox of the database at `url`. `run` keeps writing."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.get_running_loop()
        # An event's id has to be unique, not secret: no system call for each.
        self._random = Random().randbytes
        self._pending: list[_Record] = []
        self._writing: list[_Record] = []
        self._wake = asyncio.Event()
        self._connection: _Connection | None = None
        self._failing = False

    @property
    def writable(self) -> bool:
        """False while the database is away: what is admitted now could not be recorded."""
        return not self._failing

    def add(self, event: UsageRecorded) -> "asyncio.Future[None]":
        """Has `event` written, whoever waits for it or not; done once it is.

        Fails with UsageNotKept after PATIENCE_SECONDS; the record is still written, when it can be.
        """
        kept: asyncio.Future[None] = self._loop.create_future()
        id = uuid7(random=self._random)
        self._pending.append(_Record(envelope(event, id), kept, time.monotonic()))
        self._wake.set()
        return kept

    async def run(self) -> None:
        """Goes on until cancelled, through outages of the database."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            began = time.monotonic()
            many = len(self._pending) > FEW
            await self._write_all()
            rest = began + WINDOW_SECONDS - time.monotonic()
            if many and rest > 0:
                await asyncio.sleep(rest)

    async def close(self) -> None:
        """Writes what is left, as far as that can be done in a few tries, and disconnects."""
        await self._disconnect()  # it may have been left in the middle of a write
        await self._write_all(tries=3)
        if left := len(self._writing) + len(self._pending):
            log.error("usage_lost", records=left)
        await self._disconnect()

    async def _write_all(self, tries: int | None = None) -> None:
        """Writes what waits; as long as that fails, again and again, `tries` times at most."""
        tried = 0
        while self._writing or self._pending:
            room = MOST_ROWS - len(self._writing)
            self._writing += self._pending[:room]
            del self._pending[:room]
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    await self._write(self._writing)
            except (psycopg.Error, OSError, TimeoutError) as error:
                tried += 1
                await self._note_failure(error)
                if tried == tries:
                    return
                await asyncio.sleep(min(0.1 * tried, 1.0))
                continue
            if self._failing:
                self._failing = False
                log.warning("usage_is_written_again")
            written, self._writing = self._writing, []
            measures.USAGE_WAITING.set(len(self._pending))
            for record in written:
                if not record.kept.done():
                    record.kept.set_result(None)

    async def _write(self, records: Sequence[_Record]) -> None:
        if self._connection is None:
            self._connection = await connect(self._url, "usage")
        rows = [record.envelope for record in records]
        columns = (
            [row.id for row in rows],
            [row.topic for row in rows],
            [row.key for row in rows],
            [row.type for row in rows],
            [row.body for row in rows],
        )
        await self._connection.execute(_WRITE, columns, prepare=True)

    async def _note_failure(self, error: BaseException) -> None:
        if not self._failing:
            self._failing = True
            log.error("usage_not_written", error=type(error).__name__, text=str(error))
        await self._disconnect()
        measures.USAGE_WAITING.set(len(self._writing) + len(self._pending))
        now = time.monotonic()
        for record in (*self._writing, *self._pending):
            if now - record.since > PATIENCE_SECONDS and not record.kept.done():
                record.kept.set_exception(UsageNotKept())
                record.kept.exception()  # looked at, so that nobody has to

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
