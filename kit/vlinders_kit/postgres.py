"""Connections to Postgres, as every part makes them."""

from typing import Any

import psycopg


async def connect(
    url: str, application_name: str, *, statement_timeout_ms: int = 10_000
) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """A connection outside of any pool, in autocommit: for session locks and LISTEN."""
    told = arguments(application_name, statement_timeout_ms)
    return await psycopg.AsyncConnection.connect(url, autocommit=True, **told)


def arguments(application_name: str, statement_timeout_ms: int) -> dict[str, Any]:
    """How every connection is made. Both ends notice within seconds that the other's machine is
    gone: no statement waits for it, and no lock outlives it."""
    return {
        "connect_timeout": 2,
        "application_name": application_name,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        "options": f"-c statement_timeout={statement_timeout_ms} -c lock_timeout=5000"
        " -c idle_in_transaction_session_timeout=10000 -c timezone=UTC"
        " -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3",
    }
