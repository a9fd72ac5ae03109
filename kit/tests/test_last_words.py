"""Connections that are reset together with the last that Postgres said, as by a kill of it.

uvloop tells of a socket with an error once. Who then reads only what lies there waits for ever.
"""

import asyncio
import select
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from vlinders_kit.notices import Notices
from vlinders_kit.postgres import connect
from vlinders_kit.statements import Statements
from vlinders_kit.testing import Cluster
from vlinders_kit.testing.lines import line

NAME = "doomed"
_THEIRS = f"FROM pg_stat_activity WHERE application_name = '{NAME}'"


@pytest.fixture
def far(postgres: Cluster) -> Iterator[tuple[str, Callable[[int], None]]]:
    """The URL of a database, and what ends its session NAME, whose socket is given."""
    at = urlsplit(postgres.url)
    with postgres.database() as url, line(at.hostname or "", at.port or 0) as laid:

        def end(socket: int) -> None:
            """Blocks the loop, which so learns of words and reset in one turn."""
            poll = select.poll()
            with psycopg.connect(url, autocommit=True) as other:
                other.execute(f"SELECT pg_terminate_backend(pid) {_THEIRS}")
                poll.register(socket, select.POLLIN)
                assert poll.poll(10_000)
            laid.cut()
            poll.register(socket, 0)
            assert poll.poll(10_000) == [(socket, select.POLLERR | select.POLLHUP)]

        yield url.replace(f":{at.port}/", f":{laid.port}/"), end


async def test_a_statement_fails_by_it(far: tuple[str, Callable[[int], None]]) -> None:
    url, end = far
    statements = await Statements.prepare(url, NAME, "AS SELECT pg_sleep(60)", within=60)
    running = asyncio.create_task(statements.execute(0, ()))
    async with await connect(url, "test") as other:
        while not await (
            await other.execute(f"SELECT 1 {_THEIRS} AND state = 'active'")
        ).fetchall():
            await asyncio.sleep(0.01)

    end(statements._socket)

    async with asyncio.timeout(10):
        with pytest.raises(psycopg.OperationalError):
            await running
    await statements.close()


async def test_a_wait_for_notices_fails_by_it(far: tuple[str, Callable[[int], None]]) -> None:
    url, end = far
    async with await connect(url, NAME) as connection:
        notices = Notices(connection)
        await notices.listen("something")
        waiting = asyncio.create_task(notices.within(None))
        await asyncio.sleep(0)

        end(connection.fileno())

        async with asyncio.timeout(10):
            with pytest.raises(psycopg.OperationalError):
                await waiting
