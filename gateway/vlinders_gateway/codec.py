"""JSON to messages and back, in the spelling of a dialect.

What is wrong with a body is told field by field, under the names that its client knows. Protobuf's
own JSON mapping is not used: it tells one fault at a time, in words about protobuf, writes 64-bit
numbers as strings, and has one spelling.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as attribute
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from vlinders_kit.errors import MOST_VIOLATIONS, InvalidRequest, Violation

M = TypeVar("M", bound=Message)
Json = Any
Writer = Callable[[Any], Json]

_F = FieldDescriptor
_RANGES = {
    _F.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    _F.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    _F.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    _F.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_FLOATS = (_F.CPPTYPE_FLOAT, _F.CPPTYPE_DOUBLE)
_PLAIN = (Struct.DESCRIPTOR, Value.DESCRIPTOR, ListValue.DESCRIPTOR)
"""JSON as it is: free-form parts of what clients send to engines."""

MOST_ITEMS = 1_000
"""Of any list in a request: what a contract's own rules say of each item is dear to find out."""

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


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


def lower(enum: EnumDescriptor, name: str) -> str:
    """`STATUS_ACTIVE` of the enum `Status` as `active`."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    return name.removeprefix(prefix).lower()


@dataclass(frozen=True)
class Codec:
    """The spelling of a dialect. The canonical one renames nothing."""

    case: Callable[[str], str] = str
    """Of a field's name, where `names` has none."""

    names: Mapping[str, str] = attribute(default_factory=dict)
    """`created_at` → its name here, or `ApiKey.created_at` → its name in that message."""

    times: Times = SECONDS
    enums: Callable[[EnumDescriptor, str], str] = lower
    hidden: frozenset[str] = frozenset()
    """Fields that are not shown, named as in `names`."""

    def __hash__(self) -> int:
        return id(self)  # one codec, one set of plans

    def spelling(self, field: FieldDescriptor) -> str:
        own = _full_name(field)
        return self.names.get(own) or self.names.get(field.name) or self.case(field.name)

    def shown(self, field: FieldDescriptor) -> bool:
        return self.hidden.isdisjoint((_full_name(field), field.name))

    def path(self, kind: Descriptor, path: str) -> str:
        """`path`, as `messages[0].role`, in this dialect's names; what is no field stays."""
        spelt: list[str] = []
        current: Descriptor | None = kind
        for part in path.split("."):
            name, bracket, index = part.partition("[")
            field = current.fields_by_name.get(name) if current is not None else None
            spelt.append((self.spelling(field) if field else name) + bracket + index)
            current = field.message_type if field else None
        return ".".join(spelt)

    def dump(self, message: Message) -> dict[str, Json]:
        """`message` as JSON. What may be absent and is, is null; what a message has, it shows."""
        return {name: write(message) for name, write in _writers(self, message.DESCRIPTOR)}

    def load(self, kind: type[M], body: Mapping[str, Json], *, text: bool = False) -> M:
        """A `kind` filled from `body`. Unknown fields are ignored, null is absent.

        With `text` the values come from a path or query and numbers are read out of their text.
        Raises InvalidRequest with a violation for each field that has another type, by the
        contract's names: `path` spells them.
        """
        message = kind()
        broken = [*islice(self._fill(message, body, "", text), MOST_VIOLATIONS)]
        if broken:
            raise InvalidRequest(broken=tuple(broken))
        return message

    def _fill(
        self, message: Message, body: Mapping[str, Json], above: str, text: bool
    ) -> Iterator[Violation]:
        for name, field in _fields(self, message.DESCRIPTOR):
            value = body.get(name)
            if value is None:
                continue
            path = f"{above}.{field.name}" if above else field.name
            if field.is_repeated:
                yield from self._fill_list(message, field, value, path)
                continue
            if text:
                value = _untexted(field, value)
            yield from self._fill_one(message, field, value, path)

    def _fill_one(
        self, message: Message, field: FieldDescriptor, value: Json, path: str
    ) -> Iterator[Violation]:
        if field.message_type is not None:
            inner = getattr(message, field.name)
            inner.SetInParent()
            yield from self._fill_message(inner, value, path)
            return
        fault, read = self._scalar(field, value)
        if fault:
            yield Violation(path, fault)
        else:
            setattr(message, field.name, read)

    def _fill_list(
        self, message: Message, field: FieldDescriptor, values: Json, path: str
    ) -> Iterator[Violation]:
        if not isinstance(values, list):
            yield Violation(path, "must be an array")
            return
        if len(values) > MOST_ITEMS:
            yield Violation(path, f"must have at most {MOST_ITEMS} items")
            return
        target = getattr(message, field.name)
        for index, value in enumerate(values):
            place = f"{path}[{index}]"
            if field.message_type is not None:
                yield from self._fill_message(target.add(), value, place)
                continue
            fault, read = self._scalar(field, value)
            if fault:
                yield Violation(place, fault)
            else:
                target.append(read)

    def _fill_message(self, message: Message, value: Json, path: str) -> Iterator[Violation]:
        if isinstance(message, Timestamp):
            try:
                message.FromDatetime(self.times.read(value))
            except (ValueError, OverflowError):
                yield Violation(path, "must be a timestamp, as 2026-02-28T10:30:00Z")
        elif isinstance(message, Value | Struct | ListValue):
            yield from _fill_plain(message, value, path)
        elif isinstance(value, dict):
            yield from self._fill(message, value, path, text=False)
        else:
            yield Violation(path, "must be an object")

    def _scalar(self, field: FieldDescriptor, value: Json) -> tuple[str, Any]:
        """What is wrong with `value`, or nothing and the value to set."""
        kind = field.cpp_type
        if kind == _F.CPPTYPE_STRING:
            if not isinstance(value, str) or field.type == _F.TYPE_BYTES:
                return "must be a string", None
            return ("must not contain null characters", None) if "\0" in value else ("", value)
        if kind == _F.CPPTYPE_BOOL:
            return ("", value) if isinstance(value, bool) else ("must be true or false", None)
        if kind == _F.CPPTYPE_ENUM:
            return self._enum(field, value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return ("must be a number" if kind in _FLOATS else "must be an integer"), None
        if kind in _FLOATS:
            return "", float(value)
        least, most = _RANGES[kind]
        if not isinstance(value, int):
            return "must be an integer", None
        return ("", value) if least <= value <= most else (f"must be {least} to {most}", None)

    def _enum(self, field: FieldDescriptor, value: Json) -> tuple[str, Any]:
        enum: Any = field.enum_type
        known = {self.enums(enum, row.name): row.number for row in enum.values if row.number}
        if isinstance(value, str) and value in known:
            return "", known[value]
        return f"must be one of {', '.join(known)}", None


def _full_name(field: FieldDescriptor) -> str:
    owner: Any = field.containing_type
    return f"{owner.name}.{field.name}"


def _untexted(field: FieldDescriptor, value: str) -> Json:
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


def _fill_plain(message: Value | Struct | ListValue, value: Json, path: str) -> Iterator[Violation]:
    if isinstance(message, Struct) and isinstance(value, dict):
        message.update(value)
    elif isinstance(message, ListValue) and isinstance(value, list):
        message.extend(value)
    elif isinstance(message, Value):
        holder = Struct()
        holder.update({"value": value})
        message.CopyFrom(holder.fields["value"])
    else:
        yield Violation(
            path, "must be an object" if isinstance(message, Struct) else "must be an array"
        )


@functools.cache
def _fields(codec: Codec, kind: Descriptor) -> tuple[tuple[str, FieldDescriptor], ...]:
    return tuple((codec.spelling(field), field) for field in kind.fields)


@functools.cache
def _writers(codec: Codec, kind: Descriptor) -> tuple[tuple[str, Writer], ...]:
    shown = (field for field in kind.fields if codec.shown(field))
    return tuple((codec.spelling(field), _writer(codec, field)) for field in shown)


def _writer(codec: Codec, field: FieldDescriptor) -> Writer:
    name, one = field.name, _value_writer(codec, field)
    if field.is_repeated:
        return lambda message: [one(value) for value in getattr(message, name)]
    if field.has_presence:
        return lambda message: one(getattr(message, name)) if message.HasField(name) else None
    return lambda message: one(getattr(message, name))


def _value_writer(codec: Codec, field: FieldDescriptor) -> Writer:
    kind = field.message_type
    if kind is Timestamp.DESCRIPTOR:
        return lambda value: codec.times.write(value.ToDatetime(UTC))
    if kind is Duration.DESCRIPTOR:
        return lambda value: value.ToTimedelta().total_seconds()
    if kind in _PLAIN:
        return _plain
    if kind is not None:
        return codec.dump
    if field.enum_type is not None:
        enum = field.enum_type
        names = {row.number: codec.enums(enum, row.name) for row in enum.values}
        return lambda value: names.get(value, str(value))
    return lambda value: value


def _plain(value: Any) -> Json:
    if isinstance(value, Struct):
        return {name: _plain(inner) for name, inner in value.fields.items()}
    if isinstance(value, ListValue):
        return [_plain(inner) for inner in value.values]
    kind = value.WhichOneof("kind")
    if kind in (None, "null_value"):
        return None
    inner = getattr(value, kind)
    if kind in ("struct_value", "list_value"):
        return _plain(inner)
    return int(inner) if kind == "number_value" and inner.is_integer() else inner
