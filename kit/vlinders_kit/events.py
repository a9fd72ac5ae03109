"""Events: published with the transaction that made them true, taking effect once elsewhere."""

import operator
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Column,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
)

from vlinders.api.v1 import options_pb2 as api
from vlinders_kit.bus import Envelope
from vlinders_kit.db import Database, Tx
from vlinders_kit.ids import uuid7

LARGEST = 256 * 1024
"""Bytes of one event. Facts are small; what is large is asked for by an RPC."""

CHANNEL = "outbox"
"""What the relay listens to in the service's database."""

_tables = MetaData()

outbox = Table(
    "outbox",
    _tables,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    Column("id", Uuid, nullable=False),
    Column("topic", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)
inbox = Table(
    "inbox",
    _tables,
    Column("consumer_group", Text, primary_key=True),
    Column("id", Uuid, primary_key=True),
    Column("at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Index("inbox_at", "at"),
)

TABLES_SQL = """
-- What this service has to tell, until the bus has it. Rows come and go all the time, so it is
-- vacuumed by their number alone.
CREATE TABLE outbox (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL,
    topic text NOT NULL,
    key text NOT NULL,
    type text NOT NULL,
    body bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- What has taken effect here, for longer than the bus can bring it again.
CREATE TABLE inbox (
    consumer_group text NOT NULL,
    id uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer_group, id)
);
CREATE INDEX inbox_at ON inbox (at);
"""
"""What the first migration of every service with events executes."""

# In psycopg's own words, for %b: as text, an array of bytea takes it 50 µs an element.
_WRITE = """
    WITH written AS (
        INSERT INTO outbox (id, topic, key, type, body)
        SELECT * FROM unnest(
            %(ids)b::uuid[], %(topics)b::text[], %(keys)b::text[],
            %(types)b::text[], %(bodies)b::bytea[]
        )
    )
    SELECT pg_notify('outbox', '')
"""
_ADMIT = """
    INSERT INTO inbox (consumer_group, id) SELECT %(consumer_group)s, unnest(%(ids)b::uuid[])
    ON CONFLICT DO NOTHING RETURNING id
"""

E = TypeVar("E", bound=Message)
Handler = Callable[[Tx, E], Awaitable[None]]
BatchHandler = Callable[[Tx, list[E]], Awaitable[None]]


def attach(metadata: MetaData) -> None:
    """Adds `outbox` and `inbox` to the tables of a service."""
    for table in (outbox, inbox):
        table.to_metadata(metadata)


def envelope(event: Message, id: UUID | None = None, *, rest: bytes = b"") -> Envelope:
    """`event` as it travels: topic and key as its contract says.

    `rest` are more fields of it, encoded already.
    """
    name, topic, field = _told(event.DESCRIPTOR)
    key = getattr(event, field)
    if not key:
        raise ValueError(f"{name} has no {field}, which is its key")
    body = event.SerializeToString() + rest
    if len(body) > LARGEST:
        raise ValueError(f"{name} has {len(body)} bytes, more than an event may have")
    return Envelope(id or uuid7(), topic, str(key), name, body)


async def publish(tx: Tx, *events: Message) -> None:
    """Has `events` go to the bus, in this order, if, and only if, `tx` commits."""
    if not events:
        return
    rows = [envelope(event) for event in events]
    connection = await tx.connection()
    await connection.exec_driver_sql(
        _WRITE,
        {
            "ids": [row.id for row in rows],
            "topics": [row.topic for row in rows],
            "keys": [row.key for row in rows],
            "types": [row.type for row in rows],
            "bodies": [row.body for row in rows],
        },
    )


@cache
def _told(kind: Descriptor) -> tuple[str, str, str]:
    """What the contract says of an event: full name, topic, and the field that is its key."""
    option = kind.GetOptions().Extensions[api.event]  # type: ignore[index,var-annotated]
    if not option.topic:
        raise TypeError(f"{kind.full_name} is no event: its contract names no topic")
    return kind.full_name, option.topic, option.key


_BY_NUMBER = operator.attrgetter("int")
"""UUIDs compare themselves in Python: that costs each event as much as its reading."""


@dataclass(frozen=True)
class _Registered:
    kind: type[Message]
    batch: BatchHandler[Any]
    alone: bool


class Handlers:
    """What a service does on which event."""

    def __init__(self) -> None:
        self._by_type: dict[str, _Registered] = {}

    def on(self, kind: type[E]) -> Callable[[Handler[E]], Handler[E]]:
        """Has the function that it decorates called with each new event of `kind`."""

        def register(handler: Handler[E]) -> Handler[E]:
            async def each(tx: Tx, events: list[E]) -> None:
                for event in events:
                    await handler(tx, event)

            self._register(kind, each, alone=True)
            return handler

        return register

    def on_batch(self, kind: type[E]) -> Callable[[BatchHandler[E]], BatchHandler[E]]:
        """Has the function that it decorates called with all new events of `kind` of one fetch."""

        def register(handler: BatchHandler[E]) -> BatchHandler[E]:
            self._register(kind, handler, alone=False)
            return handler

        return register

    async def take(self, db: Database, group: str, envelopes: Sequence[Envelope]) -> None:
        """Lets the events take effect in one transaction, each unless it has in `group` before.

        Those of one key take effect in their order. Types without a handler are passed over.
        """
        known = [envelope for envelope in envelopes if envelope.type in self._by_type]
        if not known:
            return
        # Sorted, so that two members that get the same events at once cannot lock each other out.
        ids = sorted({envelope.id for envelope in known}, key=_BY_NUMBER)
        async with db.begin() as tx:
            connection = await tx.connection()
            found = await connection.exec_driver_sql(_ADMIT, {"consumer_group": group, "ids": ids})
            await self._apply(tx, known, set(found.scalars()))

    async def _apply(self, tx: Tx, envelopes: Sequence[Envelope], new: set[UUID]) -> None:
        waiting: dict[str, list[Message]] = {}
        """Events by type, not yet handed over."""
        last: dict[tuple[str, str], str] = {}
        """The type that an event of a topic's key waits in, so that no later one overtakes it."""
        for envelope in envelopes:
            if envelope.id not in new:
                continue
            new.discard(envelope.id)  # it may be twice in one fetch
            registered = self._by_type[envelope.type]
            before = last.get((envelope.topic, envelope.key), envelope.type)
            if before != envelope.type and before in waiting:
                await self._by_type[before].batch(tx, waiting.pop(before))
            event = registered.kind.FromString(envelope.body)
            if registered.alone:
                await registered.batch(tx, [event])
                continue
            waiting.setdefault(envelope.type, []).append(event)
            last[envelope.topic, envelope.key] = envelope.type
        for type, events in waiting.items():
            await self._by_type[type].batch(tx, events)

    def _register(self, kind: type[E], handler: BatchHandler[E], *, alone: bool) -> None:
        name = kind.DESCRIPTOR.full_name
        if name in self._by_type:
            raise ValueError(f"{name} has a handler already")
        self._by_type[name] = _Registered(kind, handler, alone)
