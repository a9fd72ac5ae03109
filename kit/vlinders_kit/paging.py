"""Lists in pages: by keyset, so that a page costs the same wherever it is."""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from vlinders.api.v1.options_pb2 import Page, PageInfo
from vlinders_kit.db import Tx
from vlinders_kit.errors import invalid

LARGEST = 100
"""Items of one page, at most."""

_LONGEST_TOKEN = 2_000

Key = ColumnElement[Any] | InstrumentedAttribute[Any]
"""What a list can be in the order of: a column, or what a model maps it to."""


async def paged(
    tx: Tx,
    query: Select[tuple[Any]],
    page: Page,
    *,
    by: Key,
    sorts: Mapping[str, Key] | None = None,
) -> tuple[Sequence[Any], PageInfo]:
    """One page of `query`'s entities, in the order that `page.sort` asks, newest first without.

    `by` is a unique column that rises with time and breaks ties; `sorts` are the columns that may
    be asked for, never null. Raises InvalidRequest for a size, token or sort that is none.
    """
    size = page.size or 20
    if not 1 <= size <= LARGEST:
        raise invalid("limit", f"must be from 1 to {LARGEST}")
    if page.skip < 0:
        raise invalid("page", "must be at least 1")
    if page.skip and page.token:
        raise invalid("page", "does not go with a page token")
    column, down = _order(page.sort, by, sorts or {})
    total = 0
    if page.with_total:
        total = await tx.scalar(select(func.count()).select_from(query.subquery())) or 0
    keys = [column] if column is by else [column, by]
    rows = query.add_columns(*keys).order_by(*(key.desc() if down else key.asc() for key in keys))
    if page.token:
        rows = rows.where(_after(keys, _read(page.token, page.sort, keys), down=down))
    found = (await tx.execute(rows.offset(page.skip or None).limit(size + 1))).all()
    info = PageInfo(total=total)
    if len(found) > size:
        info.next_token = _write(page.sort, found[size - 1][1:])
    return [row[0] for row in found[:size]], info


def _order(sort: str, by: Key, sorts: Mapping[str, Key]) -> tuple[Key, bool]:
    if not sort:
        return by, True
    name = sort.removeprefix("-")
    if name not in sorts:
        raise invalid("sort", f"must be one of {', '.join(sorted(sorts))}, or one with - before it")
    return sorts[name], sort.startswith("-")


def _after(keys: Sequence[Key], last: Sequence[Any], *, down: bool) -> ColumnElement[bool]:
    beyond: list[ColumnElement[bool]] = [
        key < value if down else key > value for key, value in zip(keys, last, strict=True)
    ]
    if len(keys) == 1:
        return beyond[0]
    return or_(beyond[0], and_(keys[0] == last[0], beyond[1]))


def _write(sort: str, values: Sequence[Any]) -> str:
    plain = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    return base64.urlsafe_b64encode(json.dumps([sort, *plain]).encode()).decode().rstrip("=")


def _read(token: str, sort: str, keys: Sequence[Key]) -> list[Any]:
    try:
        if len(token) > _LONGEST_TOKEN:
            raise ValueError
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        wanted, *values = json.loads(raw)
        if wanted != sort or len(values) != len(keys) or any("\0" in str(v) for v in values):
            raise ValueError
        return [_typed(key, value) for key, value in zip(keys, values, strict=True)]
    except (ValueError, TypeError, RecursionError):
        raise invalid("page_token", "is not a token of this list") from None


def _typed(key: Key, value: Any) -> Any:
    """A value as the database takes it; raises ValueError for one that no token of ours holds."""
    kind = key.type.python_type
    typed = datetime.fromisoformat(value) if kind is datetime else kind(value)
    if isinstance(typed, str) and "\0" in typed:
        raise ValueError
    return typed
