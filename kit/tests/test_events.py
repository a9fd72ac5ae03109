"""From `publish` to the handler: events take effect once, in order, whatever dies in between."""

import asyncio
import gc
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from sqlalchemy import MetaData, text
from structlog.testing import capture_logs

from vlinders.api.v1 import options_pb2 as api
from vlinders.auth.v1.api_keys_pb2 import ApiKey
from vlinders_kit.bus import Bus, BusUnavailable, Envelope, dead_letters, open_bus
from vlinders_kit.bus.memory import MemoryBus
from vlinders_kit.consumer import TRIES, Consumer
from vlinders_kit.db import Database, Tx
from vlinders_kit.events import TABLES_SQL, Handlers, attach, envelope, publish
from vlinders_kit.migrations import drift
from vlinders_kit.relay import Relay
from vlinders_kit.testing import Cluster

pytestmark = pytest.mark.anyio

EFFECTS_SQL = """
CREATE TABLE effect (seq bigint GENERATED ALWAYS AS IDENTITY, key text, number int);
"""
KINDS = ("Counted", "Summed")


class Kinds:
    """Two kinds of events of a topic of their own, so that a broker can be shared."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        name = topic.replace(".", "_")
        file = FileDescriptorProto(name=f"{name}.proto", package=name, syntax="proto3")
        for kind in KINDS:
            message = file.message_type.add(name=kind)
            text, number = FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_INT32
            message.field.add(name="key", number=1, type=text, label=1)
            message.field.add(name="number", number=2, type=number, label=1)
            option = message.options.Extensions[api.event]  # type: ignore[index]
            option.topic, option.key = topic, "key"
        made = descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
        self.counted, self.summed = (
            GetMessageClass(made.message_types_by_name[kind]) for kind in KINDS
        )

    def handlers(self) -> Handlers:
        """Each new event leaves one row, in one go for those of the second kind."""
        handlers = Handlers()

        @handlers.on(self.counted)
        async def count(tx: Tx, event: Any) -> None:
            await _leave(tx, event)

        @handlers.on_batch(self.summed)
        async def add(tx: Tx, events: list[Any]) -> None:
            for event in events:
                await _leave(tx, event)

        return handlers


async def _leave(tx: Tx, event: Any) -> None:
    values = {"key": event.key, "number": event.number}
    await tx.execute(text("INSERT INTO effect (key, number) VALUES (:key, :number)"), values)


@pytest.fixture
def topic() -> str:
    return f"topic.{uuid4().hex}"


@pytest.fixture
def kinds(topic: str) -> Kinds:
    return Kinds(topic)


@pytest.fixture
def service_url(postgres: Cluster) -> Iterator[str]:
    """The database of a service that notes each effect."""
    with postgres.database() as url:
        with psycopg.connect(url) as connection:
            connection.execute(TABLES_SQL + EFFECTS_SQL)
        yield url


@pytest.fixture
async def db(service_url: str) -> AsyncIterator[Database]:
    database = Database(service_url)
    yield database
    await database.close()


@pytest.fixture(params=["postgres", "kafka"])
def bus_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of each bus that outlives a process."""
    if request.param == "kafka":
        yield f"kafka://{request.getfixturevalue('kafka')}"
    else:
        with request.getfixturevalue("postgres").database("vlinders_kit.bus") as url:
            yield url


@pytest.fixture
async def bus(bus_url: str) -> AsyncIterator[Bus]:
    opened = open_bus(bus_url, "test")
    yield opened
    await opened.close()


@asynccontextmanager
async def going_on(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # What is cancelled while it connects leaves its socket to the collector, and Postgres a
        # backend that waits for a password and holds up whoever drops a database.
        gc.collect()


async def published(db: Database, *events: Message) -> None:
    async with db.begin() as tx:
        await publish(tx, *events)


async def outbox(db: Database) -> int:
    async with db.begin() as tx:
        return await tx.scalar(text("SELECT count(*) FROM outbox")) or 0


async def effects(db: Database) -> list[tuple[str, int]]:
    """Key and number of each effect, in the order they happened in."""
    async with db.begin() as tx:
        rows = await tx.execute(text("SELECT key, number FROM effect ORDER BY seq"))
        return [(row.key, row.number) for row in rows]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Returns when it holds; the test's own time limit is the only one."""
    while not await holds():
        await asyncio.sleep(0.01)


class TestPublishing:
    async def test_is_undone_with_the_transaction(self, db: Database, kinds: Kinds) -> None:
        async def fail() -> None:
            async with db.begin() as tx:
                await publish(tx, kinds.counted(key="a"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

        assert await outbox(db) == 0

    async def test_refuses_a_message_that_is_no_event(self, db: Database) -> None:
        with pytest.raises(TypeError, match=r"vlinders\.auth\.v1\.ApiKey is no event"):
            await published(db, ApiKey())

    async def test_refuses_an_event_without_its_key(self, db: Database, kinds: Kinds) -> None:
        with pytest.raises(ValueError, match="no key, which is its key"):
            await published(db, kinds.counted(number=1))

    async def test_refuses_an_event_that_is_a_book(self, db: Database, kinds: Kinds) -> None:
        with pytest.raises(ValueError, match="more than an event may have"):
            await published(db, kinds.counted(key="a" * 300_000))

    async def test_writes_tables_as_they_are_mapped(self, db: Database) -> None:
        metadata = MetaData()
        attach(metadata)
        async with db.begin() as tx:
            await tx.execute(text("DROP TABLE effect"))

        assert await drift(db.engine, metadata) == []


class TestHandlers:
    async def test_an_event_that_comes_twice_takes_effect_once(
        self, db: Database, kinds: Kinds
    ) -> None:
        event = envelope(kinds.counted(key="a", number=1))

        for _ in range(2):
            await kinds.handlers().take(db, "group", [event, event])

        assert await effects(db) == [("a", 1)]

    async def test_each_group_of_a_service_has_the_event(self, db: Database, kinds: Kinds) -> None:
        event = envelope(kinds.counted(key="a", number=1))

        for group in ("one", "other"):
            await kinds.handlers().take(db, group, [event])

        assert await effects(db) == [("a", 1), ("a", 1)]

    async def test_an_event_that_failed_is_new_the_next_time(
        self, db: Database, kinds: Kinds
    ) -> None:
        event = envelope(kinds.counted(key="a", number=1))
        failing = Handlers()

        @failing.on(kinds.counted)
        async def fail(tx: Tx, event: Any) -> None:
            await _leave(tx, event)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await failing.take(db, "group", [event])
        await kinds.handlers().take(db, "group", [event])

        assert await effects(db) == [("a", 1)]

    async def test_a_type_without_a_handler_is_passed_over(
        self, db: Database, kinds: Kinds
    ) -> None:
        await Handlers().take(db, "group", [envelope(kinds.counted(key="a"))])

        async with db.begin() as tx:
            assert await tx.scalar(text("SELECT count(*) FROM inbox")) == 0

    async def test_a_batch_has_all_events_of_its_kind(self, db: Database, kinds: Kinds) -> None:
        handlers, got = Handlers(), []

        @handlers.on_batch(kinds.summed)
        async def note(tx: Tx, events: list[Any]) -> None:
            got.append([event.number for event in events])

        sent = [envelope(kinds.summed(key=f"key{n % 2}", number=n)) for n in range(6)]
        await handlers.take(db, "group", sent)

        assert got == [[0, 1, 2, 3, 4, 5]]

    async def test_no_kind_overtakes_another_of_the_same_key(
        self, db: Database, kinds: Kinds
    ) -> None:
        counted, summed = kinds.counted, kinds.summed
        order = [summed, counted, summed, summed, counted]

        events = [envelope(kind(key="a", number=n)) for n, kind in enumerate(order)]
        await kinds.handlers().take(db, "group", events)

        assert await effects(db) == [("a", n) for n in range(5)]

    def test_have_one_function_for_each_kind(self, kinds: Kinds) -> None:
        handlers = kinds.handlers()

        with pytest.raises(ValueError, match="has a handler already"):
            handlers.on(kinds.summed)(_leave)


def consumer(db: Database, bus: Bus, topic: str, handlers: Handlers) -> Consumer:
    return Consumer(db, bus, group="group", topics=[topic], handlers=handlers, first_wait=0.001)


class TestConsumer:
    async def test_gives_up_what_keeps_failing_and_goes_on(
        self, db: Database, kinds: Kinds, topic: str
    ) -> None:
        bus, handlers, tries = MemoryBus(), Handlers(), []

        @handlers.on(kinds.counted)
        async def count(tx: Tx, event: Any) -> None:
            if event.number == 1:
                tries.append(event.number)
                raise KeyError(event.key)
            await _leave(tx, event)

        sent = [envelope(kinds.counted(key=f"key{n % 3}", number=n)) for n in range(9)]
        await bus.send(sent)

        with capture_logs() as logs:
            async with going_on(consumer(db, bus, topic, handlers).run()):
                await until(lambda: _has(effects(db), 8))

        assert [number for key, number in await effects(db) if key == "key1"] == [4, 7]
        assert bus.kept(dead_letters(topic)) == [
            replace(sent[1], topic=f"{topic}.dead", error="group: KeyError")
        ]
        assert len(tries) == TRIES + 1  # with the others, then alone
        assert [line["type"] for line in logs if line.get("alert")] == [sent[1].type]

    async def test_takes_together_what_comes_in_a_pause(
        self, db: Database, kinds: Kinds, topic: str
    ) -> None:
        bus, handlers, batches = MemoryBus(), Handlers(), []

        @handlers.on_batch(kinds.counted)
        async def gather(tx: Tx, events: list[Any]) -> None:
            batches.append([event.number for event in events])

        pausing = Consumer(
            db, bus, group="group", topics=[topic], handlers=handlers, pause=2, first_wait=0.001
        )
        async with going_on(pausing.run()):
            for number in range(3):
                await bus.send([envelope(kinds.counted(key="a", number=number))])
                await until(lambda: _reached(batches, 1))
                await asyncio.sleep(0.1)  # enough for a consumer that does not pause
            await until(lambda: _reached(batches, 2))

        assert batches == [[0], [1, 2]]

    async def test_a_body_that_is_none_is_given_up(
        self, db: Database, kinds: Kinds, topic: str
    ) -> None:
        bus = MemoryBus()
        bad = replace(envelope(kinds.counted(key="a")), body=b"\xff")
        await bus.send([bad, envelope(kinds.counted(key="a", number=2))])

        async with going_on(consumer(db, bus, topic, kinds.handlers()).run()):
            await until(lambda: _has(effects(db), 1))

        assert [letter.error for letter in bus.kept(dead_letters(topic))] == ["group: DecodeError"]

    async def test_what_fails_a_few_times_takes_effect_in_its_order(
        self, db: Database, kinds: Kinds, topic: str
    ) -> None:
        bus, handlers, failures = MemoryBus(), Handlers(), iter(range(TRIES - 1))

        @handlers.on(kinds.counted)
        async def count(tx: Tx, event: Any) -> None:
            if event.number == 0 and next(failures, None) is not None:
                raise KeyError(event.key)
            await _leave(tx, event)

        await bus.send([envelope(kinds.counted(key="a", number=n)) for n in range(3)])

        async with going_on(consumer(db, bus, topic, handlers).run()):
            await until(lambda: _has(effects(db), 3))

        assert await effects(db) == [("a", 0), ("a", 1), ("a", 2)]
        assert bus.kept(dead_letters(topic)) == []

    async def test_waits_for_a_database_that_is_away(
        self, db: Database, kinds: Kinds, topic: str, service_url: str, postgres: Cluster
    ) -> None:
        bus = MemoryBus()
        name = service_url.rpartition("/")[2]
        with capture_logs() as logs, psycopg.connect(postgres.url, autocommit=True) as admin:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            async with going_on(consumer(db, bus, topic, kinds.handlers()).run()):
                await bus.send([envelope(kinds.counted(key="a", number=1))])
                await until(lambda: _said(logs, "outage_began"))
                admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
                await until(lambda: _said(logs, "outage_ended"))

        assert await effects(db) == [("a", 1)]
        assert bus.kept(dead_letters(topic)) == []

    async def test_goes_on_when_the_bus_is_back(
        self, db: Database, kinds: Kinds, topic: str
    ) -> None:
        bus = Flaky(failing=3)
        await MemoryBus.send(bus, [envelope(kinds.counted(key="a", number=1))])

        with capture_logs() as logs:
            async with going_on(consumer(db, bus, topic, kinds.handlers()).run()):
                await until(lambda: _has(effects(db), 1))

        said = [line["event"] for line in logs if line["event"].startswith("outage")]
        assert said == ["outage_began", "outage_ended"]

    async def test_forgets_what_the_bus_cannot_bring_again(
        self, db: Database, kinds: Kinds, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vlinders_kit.consumer.PRUNE_SECONDS", 0.01)
        events = [envelope(kinds.counted(key="a", number=n)) for n in range(2)]
        await kinds.handlers().take(db, "group", events)
        async with db.begin() as tx:
            await tx.execute(
                text("UPDATE inbox SET at = now() - interval '9 days' WHERE id = :id"),
                {"id": events[0].id},
            )

        async def kept() -> list[Any]:
            async with db.begin() as tx:
                return list(await tx.scalars(text("SELECT id FROM inbox")))

        async with going_on(consumer(db, MemoryBus(), topic, kinds.handlers()).run()):
            await until(lambda: _has(kept(), 1))

        assert await kept() == [events[1].id]


class Flaky(MemoryBus):
    """A bus that is away the first few times."""

    def __init__(self, *, failing: int) -> None:
        super().__init__()
        self.failing = failing

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        self._fail()
        await super().send(envelopes)

    def subscribe(self, group: str, topics: Sequence[str]) -> Any:
        self._fail()
        return super().subscribe(group, topics)

    def _fail(self) -> None:
        if self.failing:
            self.failing -= 1
            raise BusUnavailable


async def _reached(batches: Sequence[Any], count: int) -> bool:
    return len(batches) >= count


async def _has(rows: Awaitable[Sequence[Any]], count: int) -> bool:
    return len(await rows) == count


async def _said(logs: Sequence[Any], event: str) -> bool:
    return any(line["event"] == event for line in logs)


class TestRelay:
    async def test_sends_in_the_order_of_publishing_and_forgets(
        self, db: Database, kinds: Kinds, topic: str
    ) -> None:
        bus = MemoryBus()
        for begin in range(0, 1_200, 400):
            events = [kinds.counted(key="a", number=n) for n in range(begin, begin + 400)]
            await published(db, *events)

        async with going_on(Relay(db, bus).run()):
            await until(lambda: _is_empty(db))

        sent = [kinds.counted.FromString(it.body).number for it in bus.kept(topic)]
        assert sent == list(range(1_200))

    async def test_takes_so_many_bytes_at_once_and_does_not_rest_before_the_next(
        self, db: Database, kinds: Kinds, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vlinders_kit.relay.BATCH_BYTES", 8)
        bus, sizes, send = MemoryBus(), [], MemoryBus.send

        async def counted(self: MemoryBus, envelopes: Sequence[Envelope]) -> None:
            sizes.append(len(envelopes))
            await send(self, envelopes)

        monkeypatch.setattr(MemoryBus, "send", counted)
        await published(db, *(kinds.counted(key="a", number=n) for n in range(1, 10)))

        async with going_on(Relay(db, bus, gather=1_000).run()):
            await until(lambda: _is_empty(db))

        sent = [kinds.counted.FromString(it.body).number for it in bus.kept(topic)]
        assert sent == list(range(1, 10))
        assert max(sizes) < 9

    async def test_is_woken_by_what_is_published(
        self, db: Database, kinds: Kinds, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vlinders_kit.relay.POLL_SECONDS", 1_000)
        bus = MemoryBus()
        await published(db, kinds.counted(key="a", number=0))

        async with going_on(Relay(db, bus).run()):
            for number in range(1, 5):
                await until(lambda: _is_empty(db))
                await published(db, kinds.counted(key="a", number=number))
            await until(lambda: _is_empty(db))

        assert len(bus.kept(topic)) == 5

    async def test_keeps_order_through_an_outage_and_says_so_once(
        self, db: Database, kinds: Kinds, topic: str
    ) -> None:
        bus = Flaky(failing=4)
        await published(db, *(kinds.counted(key="a", number=n) for n in range(3)))

        with capture_logs() as logs:
            async with going_on(Relay(db, bus).run()):
                await until(lambda: _is_empty(db))

        assert [kinds.counted.FromString(it.body).number for it in bus.kept(topic)] == [0, 1, 2]
        said = [line["event"] for line in logs if line["event"].startswith("outage")]
        assert said == ["outage_began", "outage_ended"]

    async def test_one_of_several_is_at_work_and_another_takes_over(
        self, db: Database, kinds: Kinds, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vlinders_kit.relay.POLL_SECONDS", 0.05)
        buses = [MemoryBus(), MemoryBus()]
        async with going_on(Relay(db, buses[1]).run()):
            async with going_on(Relay(db, buses[0]).run()):
                for number in range(20):
                    await published(db, kinds.counted(key="a", number=number))
                    await until(lambda: _is_empty(db))
            await published(db, kinds.counted(key="a", number=20))
            await until(lambda: _is_empty(db))

        counts = sorted(len(bus.kept(topic)) for bus in buses)
        assert counts in ([0, 21], [1, 20])

    async def test_goes_on_after_its_session_is_ended(
        self, db: Database, kinds: Kinds, topic: str
    ) -> None:
        bus = MemoryBus()
        ends = text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'relay' AND datname = current_database()"
        )
        async with going_on(Relay(db, bus).run()):
            for number in range(3):
                await published(db, kinds.counted(key="a", number=number))
                await until(lambda: _is_empty(db))
                async with db.begin() as tx:
                    await tx.execute(ends)

        assert len(bus.kept(topic)) == 3


async def _is_empty(db: Database) -> bool:
    return await outbox(db) == 0


class TestKilled:
    """A process dies by SIGKILL where it hurts most; another goes on."""

    async def test_consumer_between_effect_and_commit(
        self, db: Database, bus: Bus, kinds: Kinds, topic: str, service_url: str, bus_url: str
    ) -> None:
        sent = [envelope(kinds.summed(key=f"key{n % 7}", number=n)) for n in range(100)]
        await bus.send(sent)

        await killed("consumer", topic, service_url, bus_url)
        before = len(await effects(db))
        async with going_on(consumer(db, bus, topic, kinds.handlers()).run()):
            await until(lambda: _has(effects(db), 100))

        assert before > 0
        assert sorted(number for _, number in await effects(db)) == list(range(100))

    async def test_relay_between_sending_and_forgetting(
        self, db: Database, bus: Bus, kinds: Kinds, topic: str, service_url: str, bus_url: str
    ) -> None:
        await published(db, *(kinds.counted(key=f"key{n % 7}", number=n) for n in range(100)))

        await killed("relay", topic, service_url, bus_url)
        assert await outbox(db) == 100
        async with going_on(Relay(db, bus).run(), consumer(db, bus, topic, kinds.handlers()).run()):
            await until(lambda: _has(effects(db), 100))
            await until(lambda: _is_empty(db))

        found = await effects(db)
        assert sorted(number for _, number in found) == list(range(100))
        for key in {key for key, _ in found}:
            numbers = [number for other, number in found if other == key]
            assert numbers == sorted(numbers)


async def test_nothing_is_lost_or_done_twice_whoever_stops_whenever(
    db: Database, bus: Bus, kinds: Kinds, topic: str
) -> None:
    chance = random.Random(7)

    async def restless(part: Callable[[], Coroutine[Any, Any, None]]) -> None:
        for _ in range(12):
            async with going_on(part()):
                await asyncio.sleep(chance.uniform(0.0, 0.6))
        await part()

    members = [consumer(db, bus, topic, kinds.handlers()) for _ in range(2)]
    async with going_on(restless(Relay(db, bus).run), *(restless(it.run) for it in members)):
        for begin in range(0, 300, 10):
            events = (kinds.summed(key=f"key{n % 5}", number=n) for n in range(begin, begin + 10))
            await published(db, *events)
            await asyncio.sleep(chance.uniform(0.0, 0.2))
        await until(lambda: _has(effects(db), 300))

    found = await effects(db)
    assert sorted(number for _, number in found) == list(range(300))
    for key in {key for key, _ in found}:
        numbers = [number for other, number in found if other == key]
        assert numbers == sorted(numbers)


async def killed(*arguments: str) -> None:
    """Returns when the child that runs this file with `arguments` has killed itself."""
    child = await asyncio.create_subprocess_exec(sys.executable, __file__, *arguments)
    assert await child.wait() == -signal.SIGKILL


class Deadly:
    """A bus on which this process dies: in `send` when all is sent, or in the first `commit`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        await self._bus.send(envelopes)
        os.kill(os.getpid(), signal.SIGKILL)

    @asynccontextmanager
    async def subscribe(self, group: str, topics: Sequence[str]) -> AsyncIterator[Any]:
        async with self._bus.subscribe(group, topics) as subscription:
            self.fetch = subscription.fetch
            yield self

    async def commit(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


async def die(part: str, topic: str, service_url: str, bus_url: str) -> None:
    db, bus = Database(service_url), Deadly(open_bus(bus_url, "child"))
    if part == "relay":
        await Relay(db, bus).run()
    else:
        await consumer(db, bus, topic, Kinds(topic).handlers()).run()


if __name__ == "__main__":
    asyncio.run(die(*sys.argv[1:]))
