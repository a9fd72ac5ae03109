"""Members of a consumer group on the Postgres bus: who has which partitions, and how far it is.

Everything that must end with a member is an advisory lock of its session, so a member that is
killed leaves nothing behind: a shared lock for each topic says that it is there, an exclusive one
that a partition is its own. Each member works out its share from who is there, gives up what is not
in it and takes what is free. A partition is never in two hands, and soon in the right ones.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from vlinders_kit.bus import (
    LARGEST_FETCH,
    LARGEST_FETCH_BYTES,
    PARTITIONS,
    BusUnavailable,
    Envelope,
    partition_of,
)
from vlinders_kit.notices import Notices

POLL_SECONDS = 1.0
"""How soon one looks without being told: a member that is killed tells nobody."""

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
Place = tuple[str, int]
"""A topic and a partition of it."""
Positions = dict[Place, int]
"""How far one has come: the number of the last event, by place."""

_READ = """
    SELECT partition, number, id, topic, key, type, body, error FROM (
        SELECT found.*, of.place,
            sum(length(body)) OVER (ORDER BY of.place, found.number) - length(body) AS before
        FROM unnest(%s::text[], %s::int2[], %s::int8[]) WITH ORDINALITY
            AS of (topic, partition, number, place)
        CROSS JOIN LATERAL (
            SELECT partition, number, id, topic, key, type, body, error FROM event
            WHERE topic = of.topic AND partition = of.partition AND number > of.number
            ORDER BY number LIMIT %s
        ) AS found
        ORDER BY of.place, found.number LIMIT %s
    ) AS summed
    WHERE before < %s ORDER BY place, number
"""
_PRESENT = "SELECT pg_advisory_lock_shared(key) FROM unnest(%s::int8[]) AS key"
_SHARES = """
    SELECT of.topic, count(*) FILTER (WHERE pid < pg_backend_pid()), count(*)
    FROM unnest(%s::text[], %s::int8[]) AS of (topic, key)
    JOIN pg_locks ON locktype = 'advisory' AND objsubid = 1 AND granted
        AND (classid::int8 << 32 | objid::int8) = key
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    GROUP BY of.topic
"""
_FREE = "SELECT pg_advisory_unlock(key) FROM unnest(%s::int8[]) AS key"
_TRY = """
    SELECT topic, partition FROM unnest(%s::text[], %s::int2[], %s::int8[])
        AS of (topic, partition, key)
    WHERE pg_try_advisory_lock(key)
"""
# After the lock: a statement that is older than it would not see the last commit of who had it.
_FIND = """
    SELECT of.topic, of.partition, coalesce(cursor.number, 0)
    FROM unnest(%s::text[], %s::int2[]) AS of (topic, partition)
    LEFT JOIN cursor ON cursor.consumer_group = %s
        AND cursor.topic = of.topic AND cursor.partition = of.partition
"""
_COMMIT = """
    INSERT INTO cursor (consumer_group, topic, partition, number)
    SELECT %s, * FROM unnest(%s::text[], %s::int2[], %s::int8[])
    ON CONFLICT (consumer_group, topic, partition) DO UPDATE SET number = excluded.number
"""


def key_of(*names: str | int) -> int:
    """The advisory lock of that name: 64 bits of a hash, so that no two names share one."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


@contextmanager
def speaking() -> Iterator[None]:
    """Tells what Postgres raises as the bus's own failure."""
    try:
        yield
    except psycopg.Error as error:
        raise BusUnavailable(f"{type(error).__name__}: {error}") from error


async def read(connection: Connection, positions: Positions) -> list[tuple[Place, int, Envelope]]:
    """What comes next after `positions`, at most LARGEST_FETCH: with its place and number."""
    topics, partitions, numbers = _columns(positions)
    most = LARGEST_FETCH, LARGEST_FETCH, LARGEST_FETCH_BYTES
    values = topics, partitions, numbers, *most
    found = await connection.cursor(binary=True).execute(_READ, values)
    return [((row[3], row[0]), row[1], Envelope(*row[2:])) for row in await found.fetchall()]


class Member:
    """A subscription: `connection` is its own, and ends with it."""

    def __init__(self, connection: Connection, group: str, topics: Sequence[str]) -> None:
        self._connection = connection
        self._notices = Notices(connection)
        self._group = group
        self._topics = list(topics)
        self._channel = f"group {group}"
        self._held: Positions = {}
        self._fetched: Positions = {}
        self._settle_at = 0.0
        self._turn = 0

    async def join(self) -> None:
        with speaking():
            await self._notices.listen(self._channel, *self._topics)
            keys = [self._presence(topic) for topic in self._topics]
            await self._connection.execute(_PRESENT, (keys,))
            await self._tell_group()

    async def leave(self) -> None:
        """Frees everything now and says so. The end of the session would, too, but tells nobody."""
        with suppress(psycopg.Error):
            await self._connection.execute("SELECT pg_advisory_unlock_all()")
            await self._tell_group()

    async def fetch(self) -> Sequence[Envelope]:
        self._fetched.clear()
        with speaking():
            while True:
                if time.monotonic() >= self._settle_at:
                    await self._settle()
                found = await read(self._connection, self._in_turn())
                told = await self._notices.within(0 if found else POLL_SECONDS)
                if any(notice.channel == self._channel for notice in told):
                    self._settle_at = 0.0
                if found:
                    self._fetched = {place: number for place, number, _ in found}
                    return [envelope for _, _, envelope in found]

    async def commit(self) -> None:
        """Safe from who had the partition before: the session that writes is the one that locks."""
        with speaking():
            await self._connection.execute(_COMMIT, (self._group, *_columns(self._fetched)))
        self._held |= self._fetched
        self._fetched.clear()

    async def _settle(self) -> None:
        """Gives up what is not in this member's share any more, takes what is and is free."""
        self._settle_at = time.monotonic() + POLL_SECONDS
        share = await self._share()
        if surplus := [place for place in self._held if place not in share]:
            await self._connection.execute(_FREE, (self._locks(surplus),))
            for place in surplus:
                del self._held[place]
            await self._tell_group()
        if missing := [place for place in share if place not in self._held]:
            topics, partitions = _split(missing)
            tried = await self._connection.execute(_TRY, (topics, partitions, self._locks(missing)))
            if taken := await tried.fetchall():
                topics, partitions = _split(taken)
                found = await self._connection.execute(_FIND, (topics, partitions, self._group))
                self._held |= {(row[0], row[1]): row[2] for row in await found.fetchall()}

    async def _share(self) -> list[Place]:
        """Every n-th partition, where n members of the topic are there."""
        keys = [self._presence(topic) for topic in self._topics]
        found = await self._connection.execute(_SHARES, (self._topics, keys))
        return [
            (topic, partition)
            for topic, rank, members in await found.fetchall()
            for partition in range(PARTITIONS)
            # Moved on by topic, so that what is left over does not always go to the same member.
            if (partition + partition_of(topic)) % members == rank
        ]

    def _in_turn(self) -> Positions:
        """What is held, beginning with another place each time: one that is full starves none."""
        self._turn += 1
        begin = self._turn % max(1, len(self._held))
        places = [*self._held.items()]
        return dict(places[begin:] + places[:begin])

    def _presence(self, topic: str) -> int:
        return key_of("presence", self._group, topic)

    def _locks(self, places: Sequence[Place]) -> list[int]:
        return [key_of("partition", self._group, *place) for place in places]

    async def _tell_group(self) -> None:
        await self._connection.execute("SELECT pg_notify(%s, '')", (self._channel,))


def _split(places: Sequence[Any]) -> tuple[list[str], list[int]]:
    return [place[0] for place in places], [place[1] for place in places]


def _columns(positions: Positions) -> tuple[list[str], list[int], list[int]]:
    return *_split(list(positions)), list(positions.values())
