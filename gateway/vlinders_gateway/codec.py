"""JSON to messages and back, in the spelling of a dialect.

What is wrong with a body is told field by field, under the names that its client knows. Protobuf's
own JSON mapping is not used: it tells one fault at a time, in words about protobuf, writes 64-bit
numbers as strings, and has one spelling.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as attribute
from datetime import UTC
from itertools import islice
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from vlinders_gateway.free_form import fill_plain, plain
from vlinders_gateway.scalars import (
    Fault,
    amount,
    not_a,
    one_of,
    prefix_of,
    scalar,
    untexted,
    words_of,
)
from vlinders_gateway.spelling import PREFIXED, SECONDS, Ids, Times, units, word
from vlinders_kit.errors import MOST_VIOLATIONS, InvalidRequest, Violation

M = TypeVar("M", bound=Message)
Json = Any
Writer = Callable[[Any], Json]

_PLAIN = (Struct.DESCRIPTOR, Value.DESCRIPTOR, ListValue.DESCRIPTOR)
"""JSON as it is: free-form parts of what clients send to engines."""

MOST_ITEMS = 1_000
"""Of any list in a request: what a contract's own rules say of each item is dear to find out."""


@dataclass(frozen=True)
class Codec:
    """The spelling of a dialect. The canonical one renames nothing.

    A field is named in these tables by its name, `created_at`, which is every field of that name,
    or by its message too, `ApiKey.created_at`.
    """

    case: Callable[[str], str] = str
    """Of a field's name, where `names` has none."""

    names: Mapping[str, str] = attribute(default_factory=dict)
    """Field → its name here."""

    times: Times = SECONDS
    ids: Ids = PREFIXED
    values: Mapping[str, Mapping[Json, Json]] = attribute(default_factory=dict)
    """Field → value of the contract → value here. In a request no other value will do."""

    units: Mapping[str, int] = attribute(default_factory=dict)
    """Field of nanos → the most decimal places of the currency units that it is told in here."""

    nulls: frozenset[str] = frozenset()
    """Fields of text that are null here where the contract has an empty one."""

    hidden: frozenset[str] = frozenset()
    """Fields that are neither shown nor read."""

    def __hash__(self) -> int:
        return id(self)  # one codec, one set of plans

    def spelling(self, field: FieldDescriptor) -> str:
        return (
            self.names.get(full_name(field)) or self.names.get(field.name) or self.case(field.name)
        )

    def shown(self, field: FieldDescriptor) -> bool:
        return not _named(self.hidden, field)

    def nulled(self, field: FieldDescriptor) -> bool:
        return _named(self.nulls, field)

    def table(self, field: FieldDescriptor) -> Mapping[Json, Json] | None:
        """Value of the contract → value here, for a field that has a table."""
        own = self.values.get(full_name(field))
        return own if own is not None else self.values.get(field.name)

    def places(self, field: FieldDescriptor) -> int | None:
        """The most decimal places of a field that is told in currency units."""
        return self.units.get(full_name(field), self.units.get(field.name))

    def at(self, kind: Descriptor, path: str) -> tuple[str, FieldDescriptor | None]:
        """`path`, as `messages[0].role`, in this dialect's names, and the field that it leads to.

        What is no field stays as it is.
        """
        spelt: list[str] = []
        current: Descriptor | None = kind
        field = None
        for part in path.split("."):
            name, bracket, index = part.partition("[")
            field = current.fields_by_name.get(name) if current is not None else None
            spelt.append((self.spelling(field) if field else name) + bracket + index)
            current = field.message_type if field else None
        return ".".join(spelt), field

    def dump(self, message: Message) -> dict[str, Json]:
        """`message` as JSON. What may be absent and is, is null; what a message has, it shows."""
        return {name: write(message) for name, write in _writers(self, message.DESCRIPTOR)}

    def load(
        self,
        kind: type[M],
        body: Mapping[str, Json],
        *,
        text: bool = False,
        faults: list[Violation] | None = None,
    ) -> M:
        """A `kind` filled from `body`. Unknown fields are ignored, null is absent.

        With `text` the values come from a path or query and numbers are read out of their text.
        Raises InvalidRequest with a violation for each field that has another type, by the
        contract's names: `at` spells them. With `faults` they are put there, and the message has
        the other fields.
        """
        message = kind()
        broken = [*islice(self._fill(message, body, "", text), MOST_VIOLATIONS)]
        if faults is not None:
            faults += broken
        elif broken:
            raise InvalidRequest(broken=tuple(broken))
        return message

    def _fill(
        self, message: Message, body: Mapping[str, Json], above: str, text: bool
    ) -> Iterator[Violation]:
        for name, field in _fields(self, message.DESCRIPTOR):
            value = body.get(name)
            if value is None and not (name in body and self.nulled(field)):
                continue
            path = f"{above}.{field.name}" if above else field.name
            if field.is_repeated:
                yield from self._fill_list(message, field, value, path)
            else:
                yield from self._fill_one(message, field, value, path, text)

    def _fill_one(
        self, message: Message, field: FieldDescriptor, value: Json, path: str, text: bool
    ) -> Iterator[Violation]:
        if field.message_type is not None:
            inner = getattr(message, field.name)
            inner.SetInParent()
            yield from self._fill_message(inner, value, path)
            return
        fault, read = self._scalar(field, value, text)
        if fault:
            yield Violation(path, *fault)
        else:
            setattr(message, field.name, read)

    def _fill_list(
        self, message: Message, field: FieldDescriptor, values: Json, path: str
    ) -> Iterator[Violation]:
        if not isinstance(values, list):
            yield Violation(path, *not_a("an array"))
            return
        if len(values) > MOST_ITEMS:
            yield Violation(path, f"must have at most {MOST_ITEMS} items", "repeated.max_items")
            return
        target = getattr(message, field.name)
        for index, value in enumerate(values):
            place = f"{path}[{index}]"
            if field.message_type is not None:
                yield from self._fill_message(target.add(), value, place)
                continue
            fault, read = self._scalar(field, value)
            if fault:
                yield Violation(place, *fault)
            else:
                target.append(read)

    def _fill_message(self, message: Message, value: Json, path: str) -> Iterator[Violation]:
        if isinstance(message, Timestamp):
            try:
                message.FromDatetime(self.times.read(value))
            except (ValueError, OverflowError):
                yield Violation(path, *not_a("a timestamp, as 2026-02-28T10:30:00Z", "timestamp"))
        elif isinstance(message, Value | Struct | ListValue):
            if fault := fill_plain(message, value):
                yield Violation(path, *not_a(fault))
        elif isinstance(value, dict):
            yield from self._fill(message, value, path, text=False)
        else:
            yield Violation(path, *not_a("an object"))

    def _scalar(
        self, field: FieldDescriptor, value: Json, text: bool = False
    ) -> tuple[Fault | None, Any]:
        """What is wrong with `value`; or None and the value to set."""
        if self.nulled(field) and value in (None, ""):
            return (None, "") if value is None else (not_a("null, or not empty", "null"), None)
        read = _readers(self, field)
        if read is not None:
            known = read.get((type(value), value) if _is_key(value) else None)
            if text and known is None:
                known = read.get((bool, {"true": True, "false": False}.get(value)))
            if known is None:
                return not_a(one_of(here for _, here in read), "in"), None
            return None, known[0]
        value = untexted(field, value) if text else value
        places = self.places(field)
        return scalar(field, value, self.ids) if places is None else amount(value, places)


def full_name(field: FieldDescriptor) -> str:
    """`Account.id`."""
    owner: Any = field.containing_type
    return f"{owner.name}.{field.name}"


def _named(table: frozenset[str], field: FieldDescriptor) -> bool:
    return not table.isdisjoint((full_name(field), field.name))


def _is_key(value: Json) -> bool:
    return isinstance(value, str | bool | int)


@functools.cache
def _fields(codec: Codec, kind: Descriptor) -> tuple[tuple[str, FieldDescriptor], ...]:
    return tuple((codec.spelling(field), field) for field in kind.fields if codec.shown(field))


@functools.cache
def _readers(codec: Codec, field: FieldDescriptor) -> Mapping[Any, tuple[Any]] | None:
    """(Type, value) here → what to set the field to, for a field that has a table.

    By the type too, since 1 is True in Python.
    """
    table = codec.table(field)
    if table is None:
        return None
    known = words_of(field) if field.enum_type is not None else {}
    return {(type(here), here): (known.get(said, said),) for said, here in table.items()}


@functools.cache
def _writers(codec: Codec, kind: Descriptor) -> tuple[tuple[str, Writer], ...]:
    return tuple((name, _writer(codec, field)) for name, field in _fields(codec, kind))


def _writer(codec: Codec, field: FieldDescriptor) -> Writer:
    name, one = field.name, _value_writer(codec, field)
    if field.is_repeated:
        return lambda message: [one(value) for value in getattr(message, name)]
    if field.has_presence:
        return lambda message: one(getattr(message, name)) if message.HasField(name) else None
    if codec.nulled(field):
        return lambda message: one(getattr(message, name)) or None
    return lambda message: one(getattr(message, name))


def _value_writer(codec: Codec, field: FieldDescriptor) -> Writer:
    kind, table, places = field.message_type, codec.table(field), codec.places(field)
    prefix = prefix_of(field)
    if table is not None:
        said = _said(field)
        return lambda value: table.get(said(value), said(value))
    if kind is Timestamp.DESCRIPTOR:
        return lambda value: codec.times.write(value.ToDatetime(UTC))
    if kind is Duration.DESCRIPTOR:
        return lambda value: value.ToTimedelta().total_seconds()
    if kind in _PLAIN:
        return plain
    if kind is not None:
        return codec.dump
    if places is not None:
        return lambda value: units(value, places)
    if prefix and codec.ids is not PREFIXED:
        return lambda value: codec.ids.write(prefix, value)
    return _said(field)


def _said(field: FieldDescriptor) -> Writer:
    """A plain value as the contract has it: an enum by its word."""
    if field.enum_type is None:
        return lambda value: value
    enum = field.enum_type
    names = {row.number: word(enum, row.name) for row in enum.values}
    return lambda value: names.get(value, str(value))
