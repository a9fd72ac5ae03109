"""Prepared statements of a connection of their own: what they do, and how they fail."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
import pytest

from vlinders_kit.postgres import connect
from vlinders_kit.statements import Statements
from vlinders_kit.testing import Cluster
from vlinders_kit.testing.lines import line

ADD = "(uuid, bytea) AS INSERT INTO kept VALUES ($1, $2)"


@asynccontextmanager
async def table(postgres: Cluster) -> AsyncIterator[str]:
    with postgres.database() as url:
        async with await connect(url, "test") as connection:
            await connection.execute("CREATE TABLE kept (id uuid PRIMARY KEY, body bytea)")
        yield url


async def rows(url: str) -> dict[UUID, bytes]:
    async with await connect(url, "test") as connection:
        found = await connection.execute("SELECT id, body FROM kept")
        return {row[0]: row[1] for row in await found.fetchall()}


async def test_what_was_executed_is_committed(postgres: Cluster) -> None:
    ids, large = [uuid4(), uuid4()], os.urandom(4 << 20)  # more than a socket takes at once
    async with table(postgres) as url:
        statements = await Statements.prepare(url, "test", ADD, within=10)

        await statements.execute(0, (ids[0].bytes, large))
        await statements.execute(0, (ids[1].bytes, b"\0small"))

        assert await rows(url) == {ids[0]: large, ids[1]: b"\0small"}
        await statements.close()


async def test_what_postgres_refuses_is_raised(postgres: Cluster) -> None:
    id = uuid4().bytes
    async with table(postgres) as url:
        statements = await Statements.prepare(url, "test", ADD, within=10)
        await statements.execute(0, (id, b""))

        with pytest.raises(psycopg.errors.UniqueViolation):
            await statements.execute(0, (id, b""))

        await statements.close()


async def test_a_statement_that_is_none_is_refused_when_it_is_prepared(postgres: Cluster) -> None:
    async with table(postgres) as url:
        with pytest.raises(psycopg.errors.UndefinedTable):
            await Statements.prepare(url, "test", "AS SELECT * FROM nowhere", within=10)


async def test_a_server_that_ends_the_session_fails_this_statement_and_the_next(
    postgres: Cluster,
) -> None:
    end = "AS SELECT pg_terminate_backend(pg_backend_pid())"
    async with table(postgres) as url:
        statements = await Statements.prepare(url, "test", end, ADD, within=10)

        for number, values in ((0, ()), (1, (uuid4().bytes, b""))):
            with pytest.raises(psycopg.OperationalError):
                await statements.execute(number, values)

        await statements.close()


async def test_a_server_that_falls_silent_fails_the_statement_in_time(postgres: Cluster) -> None:
    async with table(postgres) as url:
        at = urlsplit(url)
        with line(at.hostname or "", at.port or 0) as laid:
            through = at._replace(netloc=at.netloc.replace(str(at.port), str(laid.port))).geturl()
            statements = await Statements.prepare(through, "test", ADD, within=0.3)
            with laid.held(), pytest.raises(psycopg.OperationalError):
                async with asyncio.timeout(10):
                    await statements.execute(0, (uuid4().bytes, b""))
            await statements.close()
