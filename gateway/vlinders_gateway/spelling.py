"""How a dialect writes single values: moments, ids, words of an enum, and amounts of money."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID

from google.protobuf.descriptor import EnumDescriptor

from vlinders_kit import ids

Json = Any

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_NANOS = Decimal(10**9)
_MOST_UNITS = Decimal(9 * 10**9)
"""More nanos than these are do not fit into 64 bits."""


@dataclass(frozen=True)
class Times:
    """How a dialect writes moments and reads them; `read` raises ValueError for what is none."""

    write: Callable[[datetime], Json]
    read: Callable[[Json], datetime]
    schema: Mapping[str, Json]
    """What OpenAPI says of one."""


def _write_moment(moment: datetime) -> str:
    return moment.replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def _read_moment(value: Json) -> datetime:
    if not isinstance(value, str) or _MOMENT.fullmatch(value) is None:
        raise ValueError
    return datetime.fromisoformat(value.upper()).astimezone(UTC)


SECONDS = Times(_write_moment, _read_moment, {"type": "string", "format": "date-time"})
"""`2026-02-28T10:30:00Z`. Fractions and numeric offsets are read, never written."""


@dataclass(frozen=True)
class Ids:
    """How a dialect spells the contract's ids, which are a prefix and a number."""

    write: Callable[[str, str], str]
    """From the prefix, as `user`, and the id."""

    read: Callable[[str, str], str]
    """The id that a text spells; for one that spells none, an id that nothing has."""

    schema: Mapping[str, Json]
    """What OpenAPI says of one."""


def _write_uuid(prefix: str, id: str) -> str:
    found = ids.read(prefix, id)
    return id if found is None else str(found)


def _read_uuid(prefix: str, text: str) -> str:
    return ids.spell(prefix, UUID(text)) if _UUID.fullmatch(text) else f"{prefix}_"


PREFIXED = Ids(lambda _, id: id, lambda _, text: text, {})
"""As the contract has them: `user_01JxR…`."""

UUIDS = Ids(_write_uuid, _read_uuid, {"format": "uuid"})
"""`0b7f6f43-3b5e-4f0e-8d0a-6c0f9f1f8a22`: the number alone."""


def word(enum: EnumDescriptor, name: str) -> str:
    """`STATUS_ACTIVE` of the enum `Status` as `active`."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    return name.removeprefix(prefix).lower()


def nanos(value: Json, places: int) -> int:
    """Currency units as nanos; raises ValueError for what is no amount of at most `places`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    amount = Decimal(str(value))
    if not amount.is_finite() or abs(amount) > _MOST_UNITS or amount != round(amount, places):
        raise ValueError
    return int(amount * _NANOS)


def units(nanos: int, places: int) -> float:
    """Nanos as currency units, rounded half up to `places`."""
    step = Decimal(1).scaleb(-places)
    return float((Decimal(nanos) / _NANOS).quantize(step, rounding=ROUND_HALF_UP))
