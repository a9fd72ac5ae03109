"""The bus in memory of one process: for tests, with the promises of the real ones."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from vlinders_kit import logs
from vlinders_kit.bus import LARGEST_FETCH, PARTITIONS, Envelope, partition_of

log = logs.get(__name__)

_Place = tuple[str, int]
"""A topic and a partition of it."""


class MemoryBus:
    """A bus that is as lasting as the object."""

    def __init__(self) -> None:
        self._kept: dict[_Place, list[Envelope]] = defaultdict(list)
        self._cursors: dict[tuple[str, _Place], int] = defaultdict(int)
        self._members: dict[str, list[_Member]] = defaultdict(list)
        self._changed = asyncio.Condition()

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        async with self._changed:
            for envelope in envelopes:
                self._kept[envelope.topic, partition_of(envelope.key)].append(envelope)
            self._changed.notify_all()

    @asynccontextmanager
    async def subscribe(self, group: str, topics: Sequence[str]) -> "AsyncIterator[_Member]":
        member = _Member(self, group, topics)
        self._members[group].append(member)
        try:
            yield member
        finally:
            self._members[group].remove(member)
            async with self._changed:
                self._changed.notify_all()

    async def broadcast(
        self,
        topics: Sequence[str],
        callback: Callable[[str, bytes], None],
        *,
        started: asyncio.Event | None = None,
    ) -> None:
        positions = {place: len(self._kept[place]) for place in _places(topics)}
        if started is not None:
            started.set()
        while True:
            async with self._changed:
                await self._changed.wait_for(
                    lambda: any(len(self._kept[place]) > at for place, at in positions.items())
                )
            for place, at in positions.items():
                for envelope in self._kept[place][at:]:
                    positions[place] += 1
                    try:
                        callback(envelope.type, envelope.body)
                    except Exception as error:  # one listener's failure is not the next event's
                        log.error("broadcast_callback_failed", type=envelope.type, exc_info=error)

    async def close(self) -> None:
        pass

    def kept(self, topic: str) -> list[Envelope]:
        """All that was sent to `topic`, for tests to look at."""
        return [envelope for place in _places([topic]) for envelope in self._kept[place]]


class _Member:
    def __init__(self, bus: MemoryBus, group: str, topics: Sequence[str]) -> None:
        self._bus = bus
        self._group = group
        self._topics = topics
        self._fetched: dict[_Place, int] = {}

    async def fetch(self) -> Sequence[Envelope]:
        self._fetched.clear()
        async with self._bus._changed:
            await self._bus._changed.wait_for(self._take)
        found: list[Envelope] = []
        for place, end in self._fetched.items():
            found += self._bus._kept[place][self._bus._cursors[self._group, place] : end]
        return found

    async def commit(self) -> None:
        for place, end in self._fetched.items():
            self._bus._cursors[self._group, place] = end
        self._fetched.clear()
        async with self._bus._changed:
            self._bus._changed.notify_all()

    def _take(self) -> bool:
        """Notes what is there for this member, unless another is still at it."""
        members = self._bus._members[self._group]
        busy = {place for member in members if member is not self for place in member._fetched}
        places = _places(self._topics)
        left = LARGEST_FETCH
        for place in places[members.index(self) :: len(members)]:
            at = self._bus._cursors[self._group, place]
            count = min(len(self._bus._kept[place]) - at, left)
            if place not in busy and count > 0:
                self._fetched[place] = at + count
                left -= count
        return bool(self._fetched)


def _places(topics: Sequence[str]) -> list[_Place]:
    return [(topic, partition) for topic in topics for partition in range(PARTITIONS)]
