"""Pages: whatever the order and the size, they hold every row once, and no token is trusted."""

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from vlinders.api.v1.options_pb2 import Page
from vlinders_kit.db import TYPES, Database
from vlinders_kit.errors import InvalidRequest
from vlinders_kit.paging import paged
from vlinders_kit.testing import Cluster


class Table(DeclarativeBase):
    type_annotation_map = TYPES


class Row(Table):
    __tablename__ = "row"

    id: Mapped[str] = mapped_column(primary_key=True)
    rank: Mapped[int]
    name: Mapped[str]
    at: Mapped[datetime]


SORTS = {"rank": Row.rank, "name": Row.name, "at": Row.at}
COUNT = 37
ROWS = [
    {
        "id": f"row_{number:03}",
        "rank": number % 3,
        "name": "äbc"[number % 3] * (number % 2 + 1),
        "at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=number % 5),
    }
    for number in range(COUNT)
]


@pytest.fixture(scope="module")
async def db(postgres: Cluster) -> AsyncIterator[Database]:
    with postgres.database() as url:
        database = Database(url)
        async with database.engine.begin() as connection:
            await connection.run_sync(Table.metadata.create_all)
            await connection.execute(insert(Row), ROWS)
        yield database
        await database.close()


async def page_of(db: Database, **asked: Any) -> tuple[list[str], Any]:
    async with db.begin() as tx:
        rows, info = await paged(tx, select(Row), Page(**asked), by=Row.id, sorts=SORTS)
        return [row.id for row in rows], info


async def all_of(db: Database, **asked: Any) -> list[str]:
    found, info = await page_of(db, **asked)
    while info.next_token:
        more, info = await page_of(db, **asked, token=info.next_token)
        assert more
        found += more
    return found


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(size=st.integers(1, 50), sort=st.sampled_from(["", *SORTS, *(f"-{name}" for name in SORTS)]))
async def test_the_pages_of_a_list_hold_every_row_once_and_in_order(
    db: Database, size: int, sort: str
) -> None:
    key = sort.lstrip("-") or "id"
    down = sort.startswith("-") or not sort

    in_order = sorted(ROWS, key=lambda row: (row[key], row["id"]), reverse=down)

    assert await all_of(db, size=size, sort=sort) == [row["id"] for row in in_order]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20
)
@given(skip=st.integers(0, 50), size=st.integers(1, 50))
async def test_a_page_by_number_is_the_part_it_says(db: Database, skip: int, size: int) -> None:
    newest_first = [row["id"] for row in reversed(ROWS)]

    found, info = await page_of(db, skip=skip, size=size, with_total=True)

    assert found == newest_first[skip : skip + size]
    assert info.total == COUNT
    assert bool(info.next_token) == (skip + size < COUNT)


async def test_a_list_has_twenty_rows_unless_asked(db: Database) -> None:
    assert len((await page_of(db))[0]) == 20


async def test_rows_that_come_in_between_move_nothing(db: Database) -> None:
    first, info = await page_of(db, size=10)
    async with db.begin() as tx:
        await tx.execute(insert(Row), [{**ROWS[0], "id": "row_999"}])
        asked = Page(size=10, token=info.next_token)
        rows, _ = await paged(tx, select(Row), asked, by=Row.id, sorts=SORTS)
        second = [row.id for row in rows]
        await tx.rollback()

    assert first + second == [row["id"] for row in reversed(ROWS)][:20]


def token(*values: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"size": 101}, "limit"),
        ({"size": -1}, "limit"),
        ({"skip": -1}, "page"),
        ({"skip": 5, "token": token("", "row_001")}, "page"),
        ({"sort": "secret"}, "sort"),
        ({"sort": "--rank"}, "sort"),
        ({"token": "?"}, "page_token"),
        ({"token": "ä"}, "page_token"),
        ({"token": token()}, "page_token"),
        ({"token": token("", "row_001", "more")}, "page_token"),
        ({"token": token("rank", 1, "row_001")}, "page_token"),
        ({"token": token("", "row\\0")[:-4]}, "page_token"),
        ({"token": token("", "row\0")}, "page_token"),
        ({"token": token("rank", "many", "row_001"), "sort": "rank"}, "page_token"),
        ({"token": token("at", "yesterday", "row_001"), "sort": "at"}, "page_token"),
        ({"token": base64.b64encode(b"[" * 9_000).decode()}, "page_token"),
        ({"token": base64.b64encode(b"[" * 1_400).decode()}, "page_token"),
        ({"token": base64.b64encode(b"\xff\xfe").decode()}, "page_token"),
    ],
)
async def test_what_is_no_page_is_refused(db: Database, asked: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await page_of(db, **asked)

    assert [violation.field for violation in refused.value.violations] == [field]
