"""Single values of fields, out of JSON or out of the text of a parameter. Nothing is guessed."""

import re
from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from vlinders.api.v1.options_pb2 import id_of
from vlinders_gateway.spelling import PREFIXED, Ids, nanos, word

Json = Any

Fault = tuple[str, str]
"""What is wrong with a value, and the rule that says so."""

_F = FieldDescriptor
_RANGES = {
    _F.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    _F.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    _F.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    _F.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_FLOATS = (_F.CPPTYPE_FLOAT, _F.CPPTYPE_DOUBLE)


def prefix_of(field: FieldDescriptor) -> str:
    """Of the ids that the field holds, as `user`; empty where it holds none."""
    options: Any = field.GetOptions()
    prefix: str = options.Extensions[id_of]
    return prefix


def words_of(field: FieldDescriptor) -> dict[str, int]:
    """Word → number, of the values that a field of an enum may be set to."""
    enum: Any = field.enum_type
    return {word(enum, row.name): row.number for row in enum.values if row.number}


def not_a(what: str, rule: str = "type") -> Fault:
    """The fault of a value that is not `what` it must be."""
    return f"must be {what}", rule


def one_of(values: Iterable[Json]) -> str:
    texts = (str(value).lower() if isinstance(value, bool) else str(value) for value in values)
    return f"one of {', '.join(texts)}"


def scalar(field: FieldDescriptor, value: Json, ids: Ids) -> tuple[Fault | None, Any]:
    """What is wrong with `value`; or None and the value to set `field` to."""
    kind = field.cpp_type
    if kind == _F.CPPTYPE_STRING:
        if not isinstance(value, str) or field.type == _F.TYPE_BYTES:
            return not_a("a string"), None
        if "\0" in value:
            return ("must not contain null characters", "string.null"), None
        prefix = prefix_of(field) if ids is not PREFIXED else ""
        return None, ids.read(prefix, value) if prefix else value
    if kind == _F.CPPTYPE_BOOL:
        return (None, value) if isinstance(value, bool) else (not_a("true or false"), None)
    if kind == _F.CPPTYPE_ENUM:
        known = words_of(field)
        if isinstance(value, str) and value in known:
            return None, known[value]
        return not_a(one_of(known), "in"), None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return not_a("a number" if kind in _FLOATS else "an integer"), None
    if kind in _FLOATS:
        return None, float(value)
    least, most = _RANGES[kind]
    if not isinstance(value, int):
        return not_a("an integer"), None
    return (None, value) if least <= value <= most else (not_a(f"{least} to {most}"), None)


def amount(value: Json, places: int) -> tuple[Fault | None, Any]:
    """What is wrong with an amount of currency units; or None and the nanos."""
    try:
        return None, nanos(value, places)
    except ValueError:
        return not_a(f"an amount, with at most {places} decimals", "amount"), None


def untexted(field: FieldDescriptor, value: str) -> Json:
    """The text of a parameter as JSON would have it; as it is where that cannot be."""
    try:
        if field.cpp_type in _RANGES:
            return int(value) if re.fullmatch(r"-?[0-9]{1,20}", value) else value
        if field.cpp_type in _FLOATS:
            return float(value)
    except ValueError:
        return value
    if field.cpp_type == _F.CPPTYPE_BOOL:
        return {"true": True, "false": False}.get(value, value)
    return value
