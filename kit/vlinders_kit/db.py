"""The database of a service: one engine, one unit of work."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, LargeBinary, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

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
        self.engine = create_async_engine(
            url.replace("postgresql://", "postgresql+psycopg://", 1),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=2,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={
                "connect_timeout": 2,
                "application_name": application_name,
                "options": f"-c statement_timeout={statement_timeout_ms} -c lock_timeout=5000"
                " -c idle_in_transaction_session_timeout=10000 -c timezone=UTC",
            },
        )
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Tx]:
        """The unit of work: commits at the end of the block, rolls back when it raises."""
        async with self._sessions.begin() as tx:
            yield tx

    async def close(self) -> None:
        await self.engine.dispose()
