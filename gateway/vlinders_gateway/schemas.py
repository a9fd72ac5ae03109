"""Messages as JSON schemas, in a dialect's spelling, with the rules and texts of the contracts."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

from vlinders_gateway.codec import Codec
from vlinders_gateway.operations import contracts
from vlinders_gateway.rules import item_limits_of, limits_of, needed
from vlinders_gateway.scalars import prefix_of, words_of
from vlinders_gateway.spelling import word

Json = Any
Schema = dict[str, Json]

_SCALARS: Mapping[str, Schema] = {
    "string": {"type": "string"},
    "bool": {"type": "boolean"},
    "int32": {"type": "integer", "format": "int32"},
    "uint32": {"type": "integer", "minimum": 0},
    "int64": {"type": "integer", "format": "int64"},
    "uint64": {"type": "integer", "minimum": 0},
    "float": {"type": "number"},
    "double": {"type": "number"},
}
_WELL_KNOWN: Mapping[str, Schema] = {
    "google.protobuf.Duration": {"type": "number", "description": "Seconds."},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Value": {},
}
NULL: Schema = {"type": "object", "nullable": True, "enum": [None]}
"""What is null and nothing else."""

_MESSAGE, _SERVICE, _NESTED, _FIELD, _METHOD = 4, 6, 3, 2, 2
"""Numbers of fields in descriptor.proto, which make the paths of its comments."""


class Schemas:
    """The schemas of one document, gathered as they are referred to."""

    def __init__(self, codec: Codec, names: Mapping[str, str]) -> None:
        self._codec = codec
        self._names = names
        self.found: dict[str, Schema] = {}
        self._of: dict[str, str] = {}

    def refer(self, kind: Any, *, asked: bool) -> Schema:
        """A reference to the schema of the message `kind`, which clients send or are told."""
        name = self._of.get(kind.full_name)
        if name is None:
            name = self._of[kind.full_name] = self._name(kind)
            self.found[name] = {}  # keeps the place, should the message hold itself
            self.found[name] = self.object(kind, asked=asked)
        return {"$ref": f"#/components/schemas/{name}"}

    def object(self, kind: Any, *, asked: bool, without: frozenset[str] = frozenset()) -> Schema:
        """The schema of `kind` itself; `without` names fields that travel elsewhere."""
        fields = [
            field for field in kind.fields if field.name not in without and self._codec.shown(field)
        ]
        here = needed(kind) if asked else {field.name for field in fields}
        spelt = {
            self._codec.spelling(each): self.field(each, asked=asked, absent=each.name not in here)
            for each in fields
        }
        schema: Schema = {"type": "object", "properties": spelt}
        required = [self._codec.spelling(field) for field in fields if field.name in here]
        if required:
            schema["required"] = required
        return _described(schema, kind.full_name)

    def at(self, kind: Any, joined: Mapping[str, Any], path: str) -> Schema:
        """The schema of what stands at a path of `kind`, which has the `joined` messages too."""
        first, _, rest = path.partition(".")
        if first in joined:
            return self.at(joined[first], {}, rest)
        fields = {self._codec.spelling(field): field for field in kind.fields}
        if rest:
            return self.at(fields[first].message_type, {}, rest)
        return self.field(fields[first], asked=False)

    def field(self, field: Any, *, asked: bool, absent: bool = False) -> Schema:
        """The schema of one field of a message; one that may be absent may be null as well."""
        if field.is_repeated:
            items = self._one(field, item_limits_of(field), asked=asked)
            schema: Schema = {"type": "array", "items": items, **limits_of(field)}
        else:
            schema = self._one(field, limits_of(field), asked=asked)
        nullable = absent or field.has_presence or self._codec.nulled(field)
        if "$ref" in schema:  # nothing may stand beside a reference
            return {"anyOf": [schema, NULL]} if nullable else schema
        if nullable and "type" in schema:
            schema |= {"nullable": True}
            schema |= {"enum": [*schema["enum"], None]} if "enum" in schema else {}
        if asked and self._codec.nulled(field):
            schema["minLength"] = 1
        return _described(schema, field.full_name)

    def _one(self, field: Any, limits: Schema, *, asked: bool) -> Schema:
        """The schema of one value, within what the contract's rules allow of it."""
        codec = self._codec
        if (table := codec.table(field)) is not None:
            values = list(table.values())
            flags = all(isinstance(value, bool) for value in values)
            return {"type": "boolean"} if flags else {"type": "string", "enum": values}
        if field.enum_type is not None:
            words = words_of(field) if asked else _every_word(field)
            some = limits.get("enum", words.values())
            return {"type": "string", "enum": [name for name, n in words.items() if n in some]}
        if codec.places(field) is not None:
            return {"type": "number", **{word: limits[word] / 10**9 for word in limits}}
        if field.message_type is None:
            scalar = _SCALARS[_type_name(field)]
            spelt = codec.ids.schema if prefix_of(field) else {}
            return {**scalar, **(spelt or limits)}
        if field.message_type.full_name == "google.protobuf.Timestamp":
            return dict(codec.times.schema)
        if field.message_type.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[field.message_type.full_name])
        return self.refer(field.message_type, asked=asked)

    def _name(self, kind: Any) -> str:
        local = kind.full_name.removeprefix(kind.file.package + ".").replace(".", "")
        return self._names.get(local, local)


@functools.cache
def comments() -> Mapping[str, str]:
    """Full name of whatever the contracts declare → what they say of it."""
    return dict(pair for file in contracts().file for pair in _comments_of(file))


def _comments_of(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    said = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
    for path, name in _names_of(file):
        text = "\n".join(line.strip() for line in said.get(path, "").strip().splitlines())
        if text:
            yield name, text


def _names_of(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    for index, message in enumerate(file.message_type):
        yield from _names_in((_MESSAGE, index), file.package, message)
    for index, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield (_SERVICE, index), name
        for place, method in enumerate(service.method):
            yield (_SERVICE, index, _METHOD, place), f"{name}.{method.name}"


def _names_in(
    path: tuple[int, ...], above: str, message: DescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    name = f"{above}.{message.name}"
    yield path, name
    for index, field in enumerate(message.field):
        yield (*path, _FIELD, index), f"{name}.{field.name}"
    for index, nested in enumerate(message.nested_type):
        yield from _names_in((*path, _NESTED, index), name, nested)


def _every_word(field: Any) -> dict[str, int]:
    """Words of an enum in an answer: also the one for what is not known."""
    return {word(field.enum_type, row.name): row.number for row in field.enum_type.values}


def _type_name(field: Any) -> str:
    names = {getattr(field, f"TYPE_{name.upper()}"): name for name in _SCALARS}
    return names[field.type]


def _described(schema: Schema, full_name: str) -> Schema:
    text = comments().get(full_name)
    return schema | {"description": text} if text else schema
