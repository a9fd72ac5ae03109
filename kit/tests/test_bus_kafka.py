"""What the Kafka bus does besides the promises of every bus."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from structlog.testing import capture_logs

from vlinders_kit.bus import PARTITIONS, BusUnavailable, Envelope
from vlinders_kit.bus.kafka import KafkaBus
from vlinders_kit.bus.kafka_address import KafkaAddress
from vlinders_kit.embedded.kafka import Kafka, NotObtainable, jars
from vlinders_kit.embedded.programs import free_port, running
from vlinders_kit.ids import uuid7


@pytest.fixture
def topic() -> str:
    return f"topic.{uuid4().hex}"


@pytest.fixture
async def bus(kafka: str) -> AsyncIterator[KafkaBus]:
    bus = KafkaBus(KafkaAddress(kafka), "test")
    yield bus
    await bus.close()


def numbered(topic: str, *numbers: int) -> list[Envelope]:
    return [Envelope(uuid7(), topic, "key", "a.Type", b"%d" % number) for number in numbers]


async def test_a_topic_that_is_not_there_is_made(bus: KafkaBus, topic: str, kafka: str) -> None:
    await bus.send(numbered(topic, 1))

    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        (found,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    assert len(found["partitions"]) == PARTITIONS


async def test_what_is_no_event_is_passed_over_and_told(
    bus: KafkaBus, topic: str, kafka: str
) -> None:
    await bus.send(numbered(topic, 1))
    stranger = AIOKafkaProducer(bootstrap_servers=kafka)
    await stranger.start()
    for headers in ([], [("id", b"short"), ("type", b"a.Type")], [("id", uuid7().bytes)]):
        await stranger.send_and_wait(topic, b"what", key=b"key", headers=headers)
    await stranger.send_and_wait(topic, b"what")
    await stranger.stop()
    await bus.send(numbered(topic, 2))

    found: list[bytes] = []
    with capture_logs() as logs:
        async with bus.subscribe("group", [topic]) as subscription:
            while len(found) < 2:
                found += [envelope.body for envelope in await subscription.fetch()]
                await subscription.commit()

    assert sorted(found) == [b"1", b"2"]
    assert [line["topic"] for line in logs if line["event"] == "not_an_event"] == [topic] * 4


async def test_a_large_send_keeps_its_order(bus: KafkaBus, topic: str) -> None:
    """It takes several of Kafka's batches."""
    sent = [Envelope(uuid7(), topic, "key", "a.Type", b"%d " % n * 20_000) for n in range(30)]
    await bus.send(sent)

    found: list[int] = []
    async with bus.subscribe("group", [topic]) as subscription:
        while len(found) < len(sent):
            found += [int(envelope.body.split()[0]) for envelope in await subscription.fetch()]
            await subscription.commit()

    assert found == list(range(30))


async def test_a_broker_that_is_away_is_ridden_out(
    kafka: str, topic: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    node = Kafka(tmp_path, jars(pytestconfig.rootpath / ".cache/kafka"), free_port(), free_port())
    node.prepare()
    log = tmp_path / "log"
    bus, told, started = (
        KafkaBus(KafkaAddress(node.address), "test"),
        asyncio.Queue[bytes](),
        asyncio.Event(),
    )
    with running(node.program(), log=log, seconds=60):
        listening = asyncio.create_task(
            bus.broadcast([topic], lambda kind, body: told.put_nowait(body), started=started)
        )
        await started.wait()
        await bus.send(numbered(topic, 1))
        assert await told.get() == b"1"
    with pytest.raises(BusUnavailable):
        await bus.send(numbered(topic, 2))
    node.prepare()
    with running(node.program(), log=log, seconds=60):
        await bus.send(numbered(topic, 2, 3))
        assert [await told.get(), await told.get()] == [b"2", b"3"]
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await bus.close()


def test_jars_that_are_not_the_expected_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, cache = tmp_path / "bin", tmp_path / "cache"
    programs.mkdir()
    for name, does in (("java", ""), ("mvn", 'echo evil > "${@: -1}"/kafka-clients-4.3.0.jar')):
        (programs / name).write_text(f"#!/bin/bash\nset -- ${{@/-DoutputDirectory=/}}\n{does}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")

    with pytest.raises(NotObtainable, match=r"not the jars that were expected: .*kafka-clients"):
        jars(cache)

    assert list(cache.iterdir()) == []


def test_what_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(NotObtainable, match="`java` is not installed"):
        jars(tmp_path)
