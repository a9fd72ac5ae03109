"""The database of a service: one engine, one unit of work."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import BigInteger, LargeBinary, Text, Uuid, event
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from vlinders_kit import errors, metrics, postgres
from vlinders_kit.silence import Watch

Tx = AsyncSession
"""A transaction that is open. Whoever gets one neither ends it nor opens another."""

TYPES: dict[Any, Any] = {
    int: BigInteger,
    str: Text,
    bytes: LargeBinary,
    datetime: TIMESTAMP(timezone=True),
    dict[str, Any]: JSONB,
    UUID: Uuid,
}
"""How Python types are kept; every model's `type_annotation_map`."""


class DatabaseUnavailable(errors.Unavailable):
    """The database does not answer at the moment."""


class Database:
    """A Postgres database, by a URL `postgresql://user:password@host:port/name`."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        statement_timeout_ms: int = 10_000,
        application_name: str = "vlinders",
    ) -> None:
        self.url = url
        told = postgres.arguments(application_name, statement_timeout_ms)
        self._watch = Watch(partial(postgres.connect, url, application_name))
        self.engine = create_async_engine(
            url.replace("postgresql://", "postgresql+psycopg://", 1),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=2,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={"async_creator_fn": self._connected, **told},
        )
        pool: Any = self.engine.pool
        metrics.gauge(
            "vlinders_database_connections",
            "Connections of the pool: most that there may be, and those in use.",
            lambda: {("most",): pool.size(), ("used",): pool.checkedout()},
            ("what",),
        )
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Tx]:
        """The unit of work: commits at the end of the block, rolls back when it raises.

        A server that does not answer ends it within two seconds, as one that is not there does.
        """
        self._watch.require()
        with self._watch.over():
            async with self._sessions.begin() as tx:
                yield tx

    async def close(self) -> None:
        await self._watch.close()
        await self.engine.dispose()

    async def _connected(self, *args: Any, **kwargs: Any) -> psycopg.AsyncConnection[Any]:
        self._watch.require()
        return await self._watch.open(psycopg.AsyncConnection.connect(*args, **kwargs))


def once_committed(tx: Tx, told: Callable[[], None]) -> None:
    """Calls `told` when `tx` has committed, and never if it does not."""
    event.listen(tx.sync_session, "after_commit", lambda _: told(), once=True)


_AWAY = ("08", "53", "57P")
"""Classes of SQLSTATE that speak of the server: connection, resources, an operator's shutdown."""


def unavailable(error: BaseException) -> bool:
    """Whether `error` says that the database is away, rather than what it thinks of a statement."""
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        error = error.orig or error
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, psycopg.OperationalError):
        return False
    return error.sqlstate is None or error.sqlstate.startswith(_AWAY)


def _meaning(error: Exception) -> DatabaseUnavailable | None:
    # Locks and deadlines of statements, too: it is worth asking again.
    away = unavailable(error) or isinstance(error, OperationalError)
    return DatabaseUnavailable() if away else None


errors.told_by(_meaning)
