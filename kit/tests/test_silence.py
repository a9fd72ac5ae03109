"""A database that is there and says nothing is away within two seconds; one that works is not."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from vlinders_kit import silence
from vlinders_kit.db import Database, unavailable
from vlinders_kit.postgres import connect
from vlinders_kit.testing import Cluster
from vlinders_kit.testing.lines import Line, line

POOL = 4
MUST = 2.0
"""Seconds in which who waits for a frozen database has to know."""


@pytest.fixture
async def far(postgres: Cluster) -> AsyncIterator[tuple[Database, Line]]:
    """A database over a line: while that is held, the machine lives and the server stands."""
    with postgres.database() as url:
        at = urlsplit(url)
        with line(at.hostname or "", at.port or 0) as laid:
            netloc = at.netloc.replace(str(at.port), str(laid.port))
            db = Database(at._replace(netloc=netloc).geturl(), pool_size=POOL)
            yield db, laid
            await db.close()


async def select(db: Database, statement: str = "SELECT 1") -> float:
    """Seconds until it failed; raises where it did not, or for another reason."""
    began = time.monotonic()
    try:
        async with db.begin() as tx:
            await tx.execute(text(statement))
    except Exception as error:
        if not unavailable(error):
            raise
        return time.monotonic() - began
    raise AssertionError("it answered")


async def works(db: Database) -> None:
    async with db.begin() as tx:
        assert await tx.scalar(text("SELECT 1")) == 1


async def test_a_frozen_database_is_away_within_two_seconds_for_all_who_wait(
    far: tuple[Database, Line],
) -> None:
    db, laid = far
    await asyncio.gather(*(works(db) for _ in range(POOL)))  # the pool is full of connections
    with capture_logs() as logs:
        with laid.held():
            waited = await asyncio.gather(*(select(db) for _ in range(3 * POOL)))
            at_once = await asyncio.gather(*(select(db) for _ in range(3 * POOL)))
        await until_it_works(db)

    assert max(waited) < MUST
    assert max(at_once) < 0.2
    told = [line["event"] for line in logs if line["event"].startswith("outage")]
    assert told == ["outage_began", "outage_ended"]


async def test_a_statement_that_runs_when_it_freezes_ends(far: tuple[Database, Line]) -> None:
    db, laid = far
    running = asyncio.create_task(select(db, "SELECT pg_sleep(60)"))
    await asyncio.sleep(2 * silence.DOUBT_SECONDS)

    with laid.held():
        began = time.monotonic()
        await running

    assert time.monotonic() - began < MUST


async def test_a_connection_that_is_being_made_when_it_freezes_ends(
    far: tuple[Database, Line],
) -> None:
    db, laid = far
    with laid.held():
        waited = await asyncio.gather(*(select(db) for _ in range(POOL)))

    assert max(waited) < MUST


async def test_what_takes_long_on_a_database_that_answers_is_left_alone(
    far: tuple[Database, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "DOUBT_SECONDS", 0.01)
    monkeypatch.setattr(silence, "ANSWER_SLICES", 5)
    db, _ = far
    async with db.begin() as tx:
        await tx.execute(text("SELECT pg_sleep(1.5)"))


async def test_a_watch_that_is_closed_while_it_asks_leaves_nothing_open(
    far: tuple[Database, Line],
) -> None:
    db, laid = far
    watch = silence.Watch(partial(connect, db.url, "test"))
    with watch.over():
        await eventually(lambda: laid.calls == 1)  # it asks
        with laid.held():
            await asyncio.sleep(2 * silence.DOUBT_SECONDS)  # and asks again
            await watch.close()

    await eventually(lambda: laid.calls == 0)


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.02)


async def until_it_works(db: Database) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                return await works(db)
            except Exception as error:
                if not unavailable(error):
                    raise
                await asyncio.sleep(0.05)
