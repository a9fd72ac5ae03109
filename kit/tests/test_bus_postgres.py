"""What the Postgres bus does besides the promises of every bus."""

import asyncio
import gc
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from vlinders_kit.bus import BusUnavailable, Envelope
from vlinders_kit.bus.membership import Member
from vlinders_kit.bus.postgres import PostgresBus
from vlinders_kit.ids import uuid7
from vlinders_kit.testing import Cluster

EVENT = "a.Type"


@pytest.fixture
def url(postgres: Cluster) -> Iterator[str]:
    with postgres.database("vlinders_kit.bus") as url:
        yield url


@pytest.fixture
async def bus(url: str) -> AsyncIterator[PostgresBus]:
    bus = PostgresBus(url, "test")
    yield bus
    await bus.close()
    gc.collect()  # of sockets whose owner was cancelled while it connected


@pytest.fixture
def admin(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def numbered(count: int, *, first: int = 0) -> list[Envelope]:
    return [
        Envelope(uuid7(), "topic", f"key{number}", EVENT, b"%d" % number)
        for number in range(first, first + count)
    ]


def end_sessions(admin: psycopg.Connection[Any]) -> None:
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'test' AND datname = current_database()"
    )


@asynccontextmanager
async def going_on(work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_who_waits_is_told_and_does_not_look(
    bus: PostgresBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlinders_kit.bus.membership.POLL_SECONDS", 1_000)
    async with bus.subscribe("group", ["topic"]) as subscription:
        waiting = asyncio.create_task(subscription.fetch())
        for number in range(5):
            await bus.send(numbered(1, first=number))
            assert [envelope.body for envelope in await waiting] == [b"%d" % number]
            await subscription.commit()
            waiting = asyncio.create_task(subscription.fetch())
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_member_whose_session_is_ended_does_not_commit_over_its_successor(
    bus: PostgresBus, admin: psycopg.Connection[Any]
) -> None:
    await bus.send(numbered(8))
    async with bus.subscribe("group", ["topic"]) as stale:
        await stale.fetch()
        end_sessions(admin)
        async with bus.subscribe("group", ["topic"]) as successor:
            assert len(await successor.fetch()) == 8
            await successor.commit()

        with pytest.raises(BusUnavailable):
            await stale.commit()
        with pytest.raises(BusUnavailable):
            await stale.fetch()


async def test_a_member_that_comes_gets_its_share_without_being_looked_for(
    bus: PostgresBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlinders_kit.bus.membership.POLL_SECONDS", 1_000)

    async def take(member: Any, into: set[bytes]) -> None:
        while True:
            found = await member.fetch()
            await member.commit()
            into |= {envelope.body for envelope in found}

    first: set[bytes] = set()
    second: set[bytes] = set()
    async with (
        bus.subscribe("group", ["topic"]) as one,
        going_on(take(one, first)),
        bus.subscribe("group", ["topic"]) as other,
        going_on(take(other, second)),
    ):
        sent = 0
        while not (first and second):
            await bus.send(numbered(4, first=sent))
            sent += 4
            while len(first | second) < sent:
                await asyncio.sleep(0.01)


async def test_members_of_different_groups_and_topics_do_not_share(bus: PostgresBus) -> None:
    await bus.send(numbered(8))
    others = [bus.subscribe("group", ["another"]), bus.subscribe("other", ["topic"])]
    async with others[0], others[1], bus.subscribe("group", ["topic"]) as subscription:
        found: set[bytes] = set()
        while len(found) < 8:
            found |= {envelope.body for envelope in await subscription.fetch()}
            await subscription.commit()


async def test_a_broadcast_catches_up_after_an_outage(
    bus: PostgresBus, admin: psycopg.Connection[Any]
) -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()
    started = asyncio.Event()
    sender = PostgresBus(bus._url, "sender")
    work = bus.broadcast(["topic"], lambda kind, body: told.put_nowait(body), started=started)
    async with going_on(work):
        await started.wait()
        for number in range(5):
            end_sessions(admin)
            await sender.send(numbered(1, first=number))

        assert sorted([await told.get() for _ in range(5)]) == [b"%d" % n for n in range(5)]
    await sender.close()


async def test_sending_goes_on_after_an_outage(
    bus: PostgresBus, admin: psycopg.Connection[Any]
) -> None:
    await bus.send(numbered(1))
    end_sessions(admin)

    with pytest.raises(BusUnavailable):
        await bus.send(numbered(1, first=1))
    await bus.send(numbered(1, first=1))

    assert admin.execute("SELECT count(*) FROM event").fetchone() == (2,)


async def test_what_is_older_than_is_kept_is_forgotten(
    bus: PostgresBus, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await bus.send(numbered(3))
    admin.execute("UPDATE event SET at = now() - interval '8 days' WHERE body <> '1'")
    bus._prune_at = 0.0

    await bus.send(numbered(1, first=3))

    rows = admin.execute("SELECT body FROM event ORDER BY number").fetchall()
    assert rows == [(b"1",), (b"3",)]


async def test_a_full_partition_starves_no_other(bus: PostgresBus) -> None:
    flood = [Envelope(uuid7(), "topic", "loud", EVENT, b"loud") for _ in range(3_000)]
    await bus.send(flood)
    await bus.send(numbered(20))

    async with bus.subscribe("group", ["topic"]) as subscription:
        assert isinstance(subscription, Member)
        first: list[bytes] = []
        for _ in range(4):  # as many fetches as there are partitions
            first += [envelope.body for envelope in await subscription.fetch()]
            await subscription.commit()

    assert {b"%d" % number for number in range(20)} & set(first)


async def test_a_fetch_is_bounded_by_its_bytes_and_large_events_come_all_the_same(
    bus: PostgresBus,
) -> None:
    large = 700 * 1024
    sent = [Envelope(uuid7(), "topic", f"key{n}", EVENT, bytes(large)) for n in range(4)]
    await bus.send(sent)

    fetched, sizes = [], []
    async with bus.subscribe("group", ["topic"]) as member:
        while len(fetched) < 4:
            found = await member.fetch()
            fetched += [envelope.id for envelope in found]
            sizes.append(len(found))
            await member.commit()

    assert sorted(fetched) == sorted(envelope.id for envelope in sent)
    assert max(sizes) <= 2
