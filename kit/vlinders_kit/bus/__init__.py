"""The bus: carries events between services, in order per key, at least once."""

from asyncio import Event as Signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from uuid import UUID
from zlib import crc32

PARTITIONS = 4
"""Of each topic: as many members of a group can work at once."""

RETENTION = timedelta(days=7)
"""How long an event can be fetched after it was sent."""

LARGEST_FETCH = 500
LARGEST_FETCH_BYTES = 1 << 20
"""Events of one fetch, at most; one that is larger comes alone."""


class BusUnavailable(Exception):
    """The bus does not answer, or did not say that it kept what it was given."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """An event as it travels."""

    id: UUID
    topic: str
    key: str
    """What orders it: envelopes of one topic and key arrive in the order they were sent in."""
    type: str
    """Full name of the message in `body`, as `vlinders.auth.v1.TenantCreated`."""
    body: bytes
    error: str = ""
    """On a dead letter, the group that gave it up and the error's class, as `billing: KeyError`."""


class Subscription(Protocol):
    """A member of a group: has some partitions of the topics for itself, as long as it is open."""

    async def fetch(self) -> Sequence[Envelope]:
        """The next envelopes, at most LARGEST_FETCH, in order per key; waits until there are any.

        Raises BusUnavailable; then only a new subscription helps, and it begins at the last commit.
        """
        ...

    async def commit(self) -> None:
        """Says that what was fetched has taken effect, so that the group never gets it again.

        What is fetched and not committed, or was committed too late because the partition went to
        another member, comes again. Raises BusUnavailable.
        """
        ...


class Bus(Protocol):
    """What carries events. Topics come into being when they are first named."""

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        """Returns when all are kept, in this order per key.

        Raises BusUnavailable if that is not sure: then send all of them again, in this order.
        """
        ...

    def subscribe(
        self, group: str, topics: Sequence[str]
    ) -> AbstractAsyncContextManager[Subscription]:
        """Joins `group`, whose members share the partitions of `topics`; leaves it at the end.

        A group that is new begins with the oldest events that are kept.
        """
        ...

    async def broadcast(
        self,
        topics: Sequence[str],
        callback: Callable[[str, bytes], None],
        *,
        started: Signal | None = None,
    ) -> None:
        """Calls `callback` with type and body of every event sent from now on; never returns.

        Sets `started` once nothing can be missed any more. Rides out a bus that is away, and
        catches up when it is back. What `callback` raises is logged; the next event comes anyway.
        """
        ...

    async def close(self) -> None: ...


def open_bus(url: str, client_id: str) -> Bus:
    """The bus at `postgresql://…` (its own database), `kafka://…` (see kafka_address) or `memory:`.

    Connects when it is first used. `client_id` names this process in the bus's own views.
    """
    scheme = url.partition(":")[0]
    if scheme == "memory":
        from vlinders_kit.bus.memory import MemoryBus

        return MemoryBus()
    if scheme == "kafka":
        from vlinders_kit.bus.kafka import KafkaBus
        from vlinders_kit.bus.kafka_address import KafkaAddress

        return KafkaBus(KafkaAddress.read(url), client_id)
    if scheme == "postgresql":
        from vlinders_kit.bus.postgres import PostgresBus

        return PostgresBus(url, client_id)
    raise ValueError(f"there is no bus for {scheme}://")


def partition_of(key: str, partitions: int = PARTITIONS) -> int:
    """The partition that keeps the order of `key`."""
    return crc32(key.encode()) % partitions


def dead_letters(topic: str) -> str:
    """The topic that gets what a group could not let take effect."""
    return f"{topic}.dead"
