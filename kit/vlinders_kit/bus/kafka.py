"""The bus on Kafka."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID

from aiokafka import (
    AIOKafkaConsumer,
    AIOKafkaProducer,
    ConsumerRebalanceListener,
    ConsumerRecord,
    TopicPartition,
)
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    TopicAlreadyExistsError,
    for_code,
)

from vlinders_kit import logs
from vlinders_kit.bus import (
    LARGEST_FETCH,
    PARTITIONS,
    RETENTION,
    BusUnavailable,
    Envelope,
    partition_of,
)
from vlinders_kit.bus.broadcasts import Callback, tell
from vlinders_kit.bus.kafka_address import KafkaAddress
from vlinders_kit.outages import Outage

SEND_SECONDS = 10
"""How long one tries to send before it counts as not sent."""

REPLICAS = 3
"""Of a topic that is made here, where there are as many brokers."""

_BATCH_BYTES = 512 * 1024
_POLL_MS = 1_000
_LAST_COMMIT_SECONDS = 5.0

_Batch = Any
_Found = dict[TopicPartition, list[ConsumerRecord]]
_LOST = (CommitFailedError, IllegalStateError)
"""The partition went to another member in the meantime: it gets the same again."""

log = logs.get(__name__)


class KafkaBus:
    """A bus on the Kafka at `address`."""

    def __init__(self, address: KafkaAddress, client_id: str) -> None:
        self._client: dict[str, Any] = {
            **address.options(),
            "client_id": client_id,
            "request_timeout_ms": SEND_SECONDS * 1000,
            "retry_backoff_ms": 250,
        }
        self._producer: AIOKafkaProducer | None = None
        self._sending = asyncio.Lock()
        self._there: set[str] = set()

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        async with self._sending:
            try:
                with _speaking():
                    await self._create({envelope.topic for envelope in envelopes})
                    if self._producer is None:
                        self._producer = await self._start()
                    await _send(self._producer, envelopes)
            except BaseException:  # of a cancelled one, too, nobody knows how far it came
                await self.close()
                raise

    @asynccontextmanager
    async def subscribe(self, group: str, topics: Sequence[str]) -> AsyncIterator["_Member"]:
        with _speaking():
            await self._create(set(topics))
        consumer = AIOKafkaConsumer(
            **self._client,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=10_000,
            heartbeat_interval_ms=2_000,
        )
        member = _Member(consumer, group)
        consumer.subscribe(list(topics), listener=member)
        try:
            with _speaking():
                await _whole(consumer.start())
            yield member
        finally:
            member.idle.set()
            await _whole(consumer.stop())

    async def broadcast(
        self,
        topics: Sequence[str],
        callback: Callback,
        *,
        started: asyncio.Event | None = None,
    ) -> None:
        outage = Outage("bus")
        positions: dict[TopicPartition, int] = {}  # outlives a consumer: an outage hides nothing
        while True:
            try:
                with _speaking():
                    await self._create(set(topics))
                    consumer = AIOKafkaConsumer(*topics, **self._client)
                    try:
                        await _whole(consumer.start())
                        await _seek(consumer, positions)
                        outage.over()
                        if started is not None:
                            started.set()
                        while True:
                            for place, records in (await _poll(consumer)).items():
                                for envelope in _read(records):
                                    tell(callback, envelope.type, envelope.body)
                                positions[place] = records[-1].offset + 1
                    finally:
                        await _whole(consumer.stop())
            except BusUnavailable as error:
                await outage.wait(error)

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _whole(producer.stop())

    async def _start(self) -> AIOKafkaProducer:
        # Not the idempotent one: aiokafka's never gives up a batch, so that neither the relay would
        # know of an outage nor a process come to its end in one. What a retry has sent twice, the
        # inbox knows.
        producer = AIOKafkaProducer(**self._client, acks="all", max_batch_size=_BATCH_BYTES)
        try:
            await _whole(producer.start())
        except BaseException:
            await _whole(producer.stop())
            raise
        return producer

    async def _create(self, topics: set[str]) -> None:
        """Makes the topics that are not there."""
        if topics <= self._there:
            return
        admin = AIOKafkaAdminClient(**self._client)
        try:
            await _whole(admin.start())
            brokers = (await admin.describe_cluster())["brokers"]
            wanted = [
                NewTopic(
                    topic,
                    num_partitions=PARTITIONS,
                    replication_factor=min(REPLICAS, len(brokers)),
                    topic_configs={"retention.ms": str(int(RETENTION.total_seconds() * 1000))},
                )
                for topic in sorted(topics - self._there)
            ]
            for _, code, text in (await admin.create_topics(wanted)).topic_errors:
                if code not in (0, TopicAlreadyExistsError.errno):
                    raise for_code(code)(text)
        finally:
            await _whole(admin.close())
        self._there |= topics


class _Member(ConsumerRebalanceListener):  # type: ignore[misc]
    """A subscription. Before a partition goes to another, what is at work has time to end."""

    def __init__(self, consumer: AIOKafkaConsumer, group: str) -> None:
        self._consumer = consumer
        self._group = group
        self._ends: dict[TopicPartition, int] = {}
        self.idle = asyncio.Event()
        self.idle.set()

    async def fetch(self) -> Sequence[Envelope]:
        self.idle.set()
        with _speaking():
            found: _Found = {}
            while not found:
                found = await _poll(self._consumer)
        self.idle.clear()
        self._ends = {place: records[-1].offset + 1 for place, records in found.items()}
        return [envelope for records in found.values() for envelope in _read(records)]

    async def commit(self) -> None:
        try:
            with _speaking():
                try:
                    await self._consumer.commit(self._ends)
                except _LOST:
                    log.info("commit_too_late", group=self._group)
        finally:
            self.idle.set()

    async def on_partitions_revoked(self, revoked: object) -> None:
        try:
            await asyncio.wait_for(self.idle.wait(), _LAST_COMMIT_SECONDS)
        except TimeoutError:
            return  # whoever gets it next does it again, and the inbox knows

    async def on_partitions_assigned(self, assigned: object) -> None:
        pass


@contextmanager
def _speaking() -> Iterator[None]:
    """Tells what Kafka raises as the bus's own failure."""
    try:
        yield
    except (KafkaError, OSError) as error:
        raise BusUnavailable(f"{type(error).__name__}: {error}") from error


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Awaits it to its end, and only then is cancelled: what is half open could not be closed."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


async def _poll(consumer: AIOKafkaConsumer) -> _Found:
    """What there is after a while; nothing is as good. Raises a cancellation that aiokafka lost."""
    found: _Found = await consumer.getmany(timeout_ms=_POLL_MS, max_records=LARGEST_FETCH)
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    return found


async def _send(producer: AIOKafkaProducer, envelopes: Sequence[Envelope]) -> None:
    """Sends batches of a partition one after the other, so that no later one can overtake one that
    fails, and the partitions side by side."""
    by_place: dict[tuple[str, int], list[Envelope]] = defaultdict(list)
    for envelope in envelopes:
        partitions = await producer.partitions_for(envelope.topic)
        by_place[envelope.topic, partition_of(envelope.key, len(partitions))].append(envelope)

    async def send(topic: str, partition: int, mine: Sequence[Envelope]) -> None:
        for batch in _batches(producer, mine):
            await (await producer.send_batch(batch, topic, partition=partition))

    ends = await asyncio.gather(
        *(send(*place, mine) for place, mine in by_place.items()), return_exceptions=True
    )
    for end in ends:
        if isinstance(end, BaseException):
            raise end


def _batches(producer: AIOKafkaProducer, envelopes: Sequence[Envelope]) -> Iterator[_Batch]:
    batch = producer.create_batch()
    for envelope in envelopes:
        if not _append(batch, envelope):
            yield batch
            batch = producer.create_batch()
            _append(batch, envelope)
    yield batch


def _append(batch: _Batch, envelope: Envelope) -> bool:
    headers = [("id", envelope.id.bytes), ("type", envelope.type.encode())]
    if envelope.error:
        headers.append(("error", envelope.error.encode()))
    key = envelope.key.encode()
    return batch.append(timestamp=None, key=key, value=envelope.body, headers=headers) is not None


def _read(records: Sequence[ConsumerRecord]) -> Iterator[Envelope]:
    """The events among the records: anybody who may write to the topic can write something else."""
    for record in records:
        headers = dict(record.headers)
        try:
            yield Envelope(
                UUID(bytes=headers["id"]),
                record.topic,
                record.key.decode(),
                headers["type"].decode(),
                record.value,
                headers.get("error", b"").decode(),
            )
        except (KeyError, ValueError, AttributeError):
            log.error(
                "not_an_event",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
            )


async def _seek(consumer: AIOKafkaConsumer, positions: dict[TopicPartition, int]) -> None:
    """To where the last consumer was; the first goes to the end, and notes where that is."""
    if not positions:
        await consumer.seek_to_end()
        positions |= {place: await consumer.position(place) for place in consumer.assignment()}
    for place, offset in positions.items():
        consumer.seek(place, offset)
