"""What every bus promises, held against each: in memory, on Postgres, on Kafka."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from vlinders_kit.bus import Bus, Envelope, Subscription, open_bus
from vlinders_kit.bus.memory import MemoryBus
from vlinders_kit.ids import uuid7
from vlinders_kit.testing import Cluster

pytestmark = pytest.mark.anyio

KEYS = [f"key{number}" for number in range(12)]


@pytest.fixture(params=["memory", "postgres", "kafka"])
def bus_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of each kind of bus there is."""
    if request.param == "memory":
        yield "memory:"
    elif request.param == "kafka":
        yield f"kafka://{request.getfixturevalue('kafka')}"
    else:
        cluster: Cluster = request.getfixturevalue("postgres")
        with cluster.database("vlinders_kit.bus") as url:
            yield url


@pytest.fixture
async def opened(bus_url: str) -> AsyncIterator[Callable[[], Bus]]:
    """Opens the bus as one more process would."""
    buses: list[Bus] = []
    memory = MemoryBus()

    def opened() -> Bus:
        buses.append(memory if bus_url == "memory:" else open_bus(bus_url, "test"))
        return buses[-1]

    yield opened
    for bus in buses:
        await bus.close()


@pytest.fixture
def bus(opened: Callable[[], Bus]) -> Bus:
    return opened()


@pytest.fixture
def topic() -> str:
    return f"topic.{uuid4().hex}"


def numbered(topic: str, count: int, *, first: int = 0) -> list[Envelope]:
    """Envelopes with the numbers from `first`, over all keys in turn."""
    return [
        Envelope(uuid7(), topic, KEYS[number % len(KEYS)], "a.Type", b"%d" % number)
        for number in range(first, first + count)
    ]


def by_key(envelopes: Sequence[Envelope]) -> dict[str, list[int]]:
    found = defaultdict(list)
    for envelope in envelopes:
        found[envelope.key].append(int(envelope.body))
    return dict(found)


async def fetched(subscription: Subscription, count: int) -> list[Envelope]:
    """The next `count` envelopes or more, each committed."""
    found: list[Envelope] = []
    while len(found) < count:
        found += await subscription.fetch()
        await subscription.commit()
    return found


async def test_events_of_a_key_arrive_in_the_order_they_were_sent_in(bus: Bus, topic: str) -> None:
    sent = numbered(topic, 1_200)
    for begin in range(0, len(sent), 300):
        await bus.send(sent[begin : begin + 300])

    async with bus.subscribe("group", [topic]) as subscription:
        found = await fetched(subscription, len(sent))

    assert by_key(found) == by_key(sent)


async def test_an_event_arrives_as_it_was_sent(bus: Bus, topic: str) -> None:
    sent = Envelope(uuid7(), topic, "ключ", "a.Type", bytes(range(256)), "group: KeyError")
    await bus.send([sent])

    async with bus.subscribe("group", [topic]) as subscription:
        assert await subscription.fetch() == [sent]


async def test_events_of_many_senders_all_arrive(opened: Callable[[], Bus], topic: str) -> None:
    buses = [opened() for _ in range(4)]
    sent = [numbered(topic, 60, first=60 * part) for part in range(len(buses))]

    async def send(bus: Bus, envelopes: Sequence[Envelope]) -> None:
        for begin in range(0, len(envelopes), 3):
            await bus.send(envelopes[begin : begin + 3])

    async with buses[0].subscribe("group", [topic]) as subscription, asyncio.TaskGroup() as tasks:
        for bus, envelopes in zip(buses, sent, strict=True):
            tasks.create_task(send(bus, envelopes))
        found = await fetched(subscription, 240)

    assert sorted(int(envelope.body) for envelope in found) == list(range(240))


async def test_a_group_gets_what_was_sent_before_it_was_there(bus: Bus, topic: str) -> None:
    await bus.send(numbered(topic, 5))
    async with bus.subscribe("first", [topic]) as subscription:
        await fetched(subscription, 5)

    async with bus.subscribe("second", [topic]) as subscription:
        found = await fetched(subscription, 5)

    assert sorted(int(envelope.body) for envelope in found) == [0, 1, 2, 3, 4]


async def test_what_was_not_committed_comes_again(bus: Bus, topic: str) -> None:
    await bus.send(numbered(topic, 1))
    async with bus.subscribe("group", [topic]) as subscription:
        first = await subscription.fetch()

    async with bus.subscribe("group", [topic]) as subscription:
        assert await subscription.fetch() == first


async def test_what_was_committed_does_not_come_again(bus: Bus, topic: str) -> None:
    await bus.send(numbered(topic, 20))
    async with bus.subscribe("group", [topic]) as subscription:
        await fetched(subscription, 20)
    await bus.send(numbered(topic, 1, first=20))

    async with bus.subscribe("group", [topic]) as subscription:
        found = await fetched(subscription, 1)

    assert [int(envelope.body) for envelope in found] == [20]


async def test_one_subscription_has_several_topics(bus: Bus, topic: str) -> None:
    topics = [f"{topic}.{number}" for number in range(3)]
    for name in topics:
        await bus.send(numbered(name, 1))

    async with bus.subscribe("group", topics) as subscription:
        found = await fetched(subscription, 3)

    assert sorted(envelope.topic for envelope in found) == topics


async def test_a_member_that_waits_is_woken_by_what_is_sent(bus: Bus, topic: str) -> None:
    async with bus.subscribe("group", [topic]) as subscription, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(fetched(subscription, 1))
        await asyncio.sleep(0)
        await bus.send(numbered(topic, 1))

    assert by_key(waiting.result()) == {"key0": [0]}


class Taker:
    """A member of a group that takes what it gets."""

    def __init__(self, bus: Bus, topic: str, got: asyncio.Condition) -> None:
        self.found: list[Envelope] = []
        self._bus = bus
        self._topic = topic
        self._got = got

    async def run(self) -> None:
        async with self._bus.subscribe("group", [self._topic]) as subscription:
            while True:
                found = await subscription.fetch()
                await subscription.commit()
                async with self._got:
                    self.found += found
                    self._got.notify_all()


@asynccontextmanager
async def going_on(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_members_share_the_events_as_they_come_and_go(
    opened: Callable[[], Bus], topic: str
) -> None:
    got = asyncio.Condition()
    bus = opened()
    first, second, third = takers = [Taker(opened(), topic, got) for _ in range(3)]
    sent: list[Envelope] = []

    def arrived() -> bool:
        ids = {envelope.id for taker in takers for envelope in taker.found}
        return ids >= {envelope.id for envelope in sent}

    async def send_until(holds: Callable[[], bool]) -> None:
        while not holds():
            more = numbered(topic, len(KEYS), first=len(sent))
            await bus.send(more)
            sent.extend(more)
            async with got:
                await got.wait_for(arrived)

    async with going_on(first.run()):
        await send_until(lambda: bool(first.found))
        async with going_on(second.run()):
            await send_until(lambda: bool(second.found))
            async with going_on(third.run()):
                await send_until(lambda: bool(third.found))
        before = {envelope.id for envelope in first.found}
        await send_until(lambda: {e.key for e in first.found if e.id not in before} == set(KEYS))

    for taker in takers:
        once = {envelope.id: envelope for envelope in taker.found}
        for numbers in by_key(list(once.values())).values():
            assert numbers == sorted(numbers)


class Listener:
    """Notes what is broadcast to it, and fails at what is bad."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    def __call__(self, type: str, body: bytes) -> None:
        self._told.put_nowait((type, body))
        if body == b"bad":
            raise ValueError(body)

    async def told(self, count: int) -> list[tuple[str, bytes]]:
        return [await self._told.get() for _ in range(count)]


@asynccontextmanager
async def listening(bus: Bus, topic: str, *listeners: Listener) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for listener in listeners:
            started = asyncio.Event()
            work = bus.broadcast([topic], listener, started=started)
            await stack.enter_async_context(going_on(work))
            await started.wait()
        yield


async def test_every_listener_is_told_what_is_sent_from_then_on(bus: Bus, topic: str) -> None:
    one, other = Listener(), Listener()
    await bus.send(numbered(topic, 3))

    async with listening(bus, topic, one, other):
        await bus.send([Envelope(uuid7(), topic, "key", "a.Type", b"new")])

        assert await one.told(1) == [("a.Type", b"new")]
        assert await other.told(1) == [("a.Type", b"new")]


async def test_a_listener_that_fails_is_told_the_next_event(bus: Bus, topic: str) -> None:
    listener = Listener()

    async with listening(bus, topic, listener):
        for body in (b"bad", b"good"):
            await bus.send([Envelope(uuid7(), topic, "key", "a.Type", body)])

        assert await listener.told(2) == [("a.Type", b"bad"), ("a.Type", b"good")]


def test_there_is_no_bus_for_another_scheme() -> None:
    with pytest.raises(ValueError, match="no bus for amqp"):
        open_bus("amqp://localhost", "test")
