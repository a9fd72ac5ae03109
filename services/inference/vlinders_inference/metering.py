"""Metering: the record of every request is in the database before the client hears of its end.

Records that come while others are being written go together in the next event, so that one costs
some ten microseconds under load; an event for each would cost twenty times as much, here and
wherever it goes.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from random import Random
from uuid import UUID

import psycopg
from msgspec import Struct

from vlinders.inference.v1.events_pb2 import UsageGathered, UsageRecorded
from vlinders_inference import measures
from vlinders_inference.errors import UsageNotKept
from vlinders_kit import logs
from vlinders_kit.alarms import Alarm
from vlinders_kit.encoding import delimited, tag
from vlinders_kit.events import envelope
from vlinders_kit.ids import spell, uuid7
from vlinders_kit.statements import Statements

WINDOW_SECONDS = 0.000_25
LONGEST_WINDOW_SECONDS = 0.008
"""Least time between the beginnings of two writes, for each record of the first: as many as came
will come again meanwhile. One that comes alone is not followed by any wait."""

PATIENCE_SECONDS = 5.0
"""How long the end of an answer waits for its record."""

WRITE_SECONDS = 2.0
"""How long one write may take."""

MOST_RECORDS = 200
"""Of one event, which may have 256 KB: one of the longest names has a kilobyte."""

TELL_SECONDS = 0.1
"""How often the relay is told, at most. It looks again by itself after it has found something, and
a notification wakes a process of Postgres, which costs as much as the write."""

_WRITE = """
    (uuid, text, text, text, bytea) AS
    INSERT INTO outbox (id, topic, key, type, body) VALUES ($1, $2, $3, $4, $5)
"""
_WRITE_AND_TELL = """
    (uuid, text, text, text, bytea) AS
    WITH written AS (
        INSERT INTO outbox (id, topic, key, type, body) VALUES ($1, $2, $3, $4, $5)
    )
    SELECT pg_notify('outbox', '')
"""

_RECORDS = tag(UsageGathered, "records")

log = logs.get(__name__)


class _Record(Struct, eq=False):
    event: bytes
    """UsageRecorded, as a field of UsageGathered."""
    kept: "asyncio.Future[None]"
    until: float
    """When whoever waits has waited long enough, by the loop's clock."""


class UsageLog:
    """Writes records into the outbox of the database at `url`. `run` keeps writing."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.get_running_loop()
        # An event's id has to be unique, not secret: no system call for each.
        self._random = Random().randbytes
        self._pending: list[_Record] = []
        self._writing: list[_Record] = []
        self._id = UUID(int=0)
        """Of the event that is being written."""
        self._tell_at = 0.0
        self._wake = asyncio.Event()
        self._statements: Statements | None = None
        self._failing = False
        self._lapse = Alarm(self._fail_old)

    @property
    def writable(self) -> bool:
        """False while the database is away: what is admitted now could not be recorded."""
        return not self._failing

    def add(self, event: UsageRecorded) -> "asyncio.Future[None]":
        """Has `event` written, whoever waits for it or not; done once it is.

        Fails with UsageNotKept after PATIENCE_SECONDS; the record is still written, when it can be.
        """
        kept: asyncio.Future[None] = self._loop.create_future()
        until = self._loop.time() + PATIENCE_SECONDS
        field = delimited(_RECORDS, event.SerializeToString())
        self._pending.append(_Record(field, kept, until))
        self._lapse.by(until)
        self._wake.set()
        return kept

    async def run(self) -> None:
        """Goes on until cancelled, through outages of the database."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            began = time.monotonic()
            window = min(len(self._pending) * WINDOW_SECONDS, LONGEST_WINDOW_SECONDS)
            await self._write_all()
            rest = began + window - time.monotonic()
            if rest > 0:
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
            if not self._writing:
                self._writing = self._pending[:MOST_RECORDS]
                del self._pending[:MOST_RECORDS]
                self._id = uuid7(random=self._random)
            try:
                await self._write(self._writing)
            except (psycopg.Error, OSError) as error:
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
        """Writes them as one event, whose id stays the same until it is written: a write whose
        answer was lost comes twice, and counts once for whoever consumes it."""
        if self._statements is None:
            self._statements = await Statements.prepare(
                self._url, "usage", _WRITE, _WRITE_AND_TELL, within=WRITE_SECONDS
            )
        gathered = UsageGathered(gathering_id=spell("gath", self._id))
        row = envelope(gathered, self._id, rest=b"".join(record.event for record in records))
        now = time.monotonic()
        tell = now >= self._tell_at
        values = (
            *(row.id.bytes, row.topic.encode(), row.key.encode(), row.type.encode()),
            row.body,
        )
        await self._statements.execute(int(tell), values)
        if tell:
            self._tell_at = now + TELL_SECONDS

    async def _note_failure(self, error: BaseException) -> None:
        if not self._failing:
            self._failing = True
            log.error("usage_not_written", error=type(error).__name__, text=str(error))
        await self._disconnect()
        measures.USAGE_WAITING.set(len(self._writing) + len(self._pending))

    def _fail_old(self, now: float) -> float:
        """Fails the waits that are over; answers when the next one will be."""
        for record in (*self._writing, *self._pending):
            if record.kept.done():
                continue
            if record.until > now:
                return record.until
            record.kept.set_exception(UsageNotKept())
            record.kept.exception()  # looked at, so that nobody has to
        return math.inf

    async def _disconnect(self) -> None:
        statements, self._statements = self._statements, None
        if statements is not None:
            await statements.close()
