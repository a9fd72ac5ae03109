"""What is an outage of the database, and what is none; rows as messages; errors as texts."""

from datetime import UTC, datetime
from types import SimpleNamespace

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from vlinders.auth.v1.api_keys_pb2 import ApiKey, CreateApiKeyRequest
from vlinders_kit.db import Database, unavailable
from vlinders_kit.errors import NotFound
from vlinders_kit.messages import said, to_message
from vlinders_kit.postgres import connect
from vlinders_kit.testing import Cluster


async def failure(db: Database, statement: str) -> DBAPIError:
    async def run() -> None:
        async with db.begin() as tx:
            await tx.execute(text(statement))

    with pytest.raises(DBAPIError) as raised:
        await run()
    return raised.value


async def test_only_what_says_that_the_database_is_away_is_an_outage(postgres: Cluster) -> None:
    with postgres.database() as url:
        db = Database(url, statement_timeout_ms=100)
        for statement in ("SELECT 1 / 0", "SELECT pg_sleep(9)", "SELECT * FROM nowhere"):
            assert not unavailable(await failure(db, statement))
        assert unavailable(await failure(db, "SELECT pg_terminate_backend(pg_backend_pid())"))
        await db.close()


async def test_a_database_that_is_not_there_is_an_outage() -> None:
    db = Database("postgresql://nobody@127.0.0.1:1/nothing")
    error = await failure(db, "SELECT 1")
    await db.close()

    assert unavailable(error)
    with pytest.raises(psycopg.OperationalError) as bare:
        await connect("postgresql://nobody@127.0.0.1:1/nothing", "test")
    assert unavailable(bare.value)


async def test_a_statement_ends_in_time(postgres: Cluster) -> None:
    with postgres.database() as url:
        db = Database(url, statement_timeout_ms=50)
        error = await failure(db, "SELECT pg_sleep(60)")
        await db.close()

    assert isinstance(error.orig, psycopg.errors.QueryCanceled)


ROW = SimpleNamespace(
    id="key_1",
    name="laptop",
    permissions=["usage:read"],
    created_at=datetime(2026, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC),
    expires_at=None,
    last_used_at=None,
    hourly_limit=None,
)


def test_a_message_has_what_the_row_has_and_what_is_given() -> None:
    message = to_message(ApiKey, ROW, key_prefix="vlinders_sk_live_abcd")

    assert message.created_at.ToDatetime(UTC) == ROW.created_at
    assert not message.HasField("expires_at")
    assert (message.id, message.key_prefix) == ("key_1", "vlinders_sk_live_abcd")
    assert list(message.permissions) == ["usage:read"]


def test_a_field_that_nobody_has_is_an_error() -> None:
    with pytest.raises(AttributeError, match="key_prefix"):
        to_message(ApiKey, ROW)


def test_what_is_given_and_is_no_field_is_an_error() -> None:
    with pytest.raises(TypeError, match="has no prefix"):
        to_message(ApiKey, ROW, key_prefix="", prefix="vlinders_sk_live_abcd")


def test_only_what_a_request_says_is_said() -> None:
    request = CreateApiKeyRequest(hourly_limit=0)

    assert said(request, "hourly_limit", "expires_at") == {"hourly_limit": 0}


class ShelfNotFound(NotFound):
    """There is no shelf {shelf_id}
    in this library."""

    shelf_id: str


class NothingSaid(ShelfNotFound): ...


def test_an_error_says_its_docstring_with_its_facts() -> None:
    error = ShelfNotFound(shelf_id="{top}")

    assert str(error) == "There is no shelf {top} in this library."
    assert (error.reason, error.facts) == ("SHELF_NOT_FOUND", {"shelf_id": "{top}"})


def test_an_error_without_words_says_its_familys() -> None:
    assert str(NothingSaid(shelf_id="a")) == "There is no shelf a in this library."
