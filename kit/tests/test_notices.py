"""Notices: none is lost, and nobody wakes until there is one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from vlinders_kit.notices import Notices
from vlinders_kit.postgres import connect
from vlinders_kit.testing import Cluster

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


@asynccontextmanager
async def two(postgres: Cluster) -> AsyncIterator[tuple[Connection, Connection]]:
    with postgres.database() as url:
        async with await connect(url, "test") as one, await connect(url, "test") as other:
            yield one, other


def told(notices: Sequence[psycopg.Notify]) -> list[tuple[str, str]]:
    return [(notice.channel, notice.payload) for notice in notices]


async def test_what_was_notified_while_nobody_waited_is_not_lost(postgres: Cluster) -> None:
    async with two(postgres) as (connection, other):
        notices = Notices(connection)
        await notices.listen("one", "two")
        assert await notices.within(0) == []
        for channel in ("one", "two"):
            await other.execute(f"NOTIFY {channel}, 'a'")
        await connection.execute("SELECT 1")
        await other.execute("NOTIFY one, 'b'")

        heard: list[tuple[str, str]] = []
        while len(heard) < 3:
            heard += told(await notices.within(60))

        assert heard == [("one", "a"), ("two", "a"), ("one", "b")]
        assert await notices.within(0) == []


async def test_a_notice_ends_the_wait_and_until_then_nothing_wakes(
    postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(postgres) as (connection, other):
        notices = Notices(connection)
        await notices.listen("one")
        reads: list[None] = []
        read = notices._read
        monkeypatch.setattr(notices, "_read", lambda: (reads.append(None), read()))
        waiting = asyncio.create_task(notices.within(None))
        await asyncio.sleep(0.5)
        before = len(reads)
        await other.execute("NOTIFY one")

        assert told(await waiting) == [("one", "")]
        assert before == 1


async def test_a_wait_ends_in_time_with_nothing(postgres: Cluster) -> None:
    async with two(postgres) as (connection, _):
        assert await Notices(connection).within(0.01) == []


async def test_a_lost_connection_ends_the_wait(postgres: Cluster) -> None:
    async with two(postgres) as (connection, other):
        waiting = asyncio.create_task(Notices(connection).within(None))
        await asyncio.sleep(0)
        await other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))

        with pytest.raises(psycopg.OperationalError):
            await waiting
