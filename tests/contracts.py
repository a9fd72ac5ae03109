"""The contracts as they last landed, and what would break those who were built against them.

`make baseline` writes down the contracts as they are now, in `tests/contracts.json`.
"""

import json
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

import vlinders
from vlinders.api.v1 import options_pb2 as api

WRITTEN = Path(__file__).with_name("contracts.json")

Summary = dict[str, dict[str, Any]]
"""Full name of a message, enum or RPC → what others rely on of it."""


def compiled() -> FileDescriptorSet:
    """The compiled contracts, with comments."""
    folder = Path(next(iter(vlinders.__path__))).parent
    return FileDescriptorSet.FromString((folder / "vlinders.binpb").read_bytes())


def summary_of(files: FileDescriptorSet) -> Summary:
    """What clients and other parts rely on, and nothing else."""
    found: Summary = {}
    for file in files.file:
        if not file.name.startswith("vlinders/"):
            continue
        for message in file.message_type:
            _message(found, file.package, message)
        for enum in file.enum_type:
            _enum(found, file.package, enum)
        for service in file.service:
            for method in service.method:
                found[f"{file.package}.{service.name}.{method.name}"] = _rpc(method)
    return dict(sorted(found.items()))


def breaking_changes(before: Summary, after: Summary) -> list[str]:
    """One line for each thing that somebody relied on and that is not so any more."""
    changes = []
    for name, old in before.items():
        new = after.get(name)
        if new is None:
            changes.append(f"{name}: is gone")
            continue
        for number, field in old.get("fields", {}).items():
            now = new["fields"].get(number)
            gone = now is None and {number, field.split()[0]} <= set(new.get("reserved", ()))
            if now != field and not gone:
                changes.append(f"{name}.{number}: was {field}, is {now or 'gone, not reserved'}")
        for number, value in old.get("values", {}).items():
            if new["values"].get(number) != value:
                changes.append(f"{name}.{number}: was {value}, is {new['values'].get(number)}")
        changes += [
            f"{name}: {what} was {old.get(what)}, is {new.get(what)}"
            for what in ("rpc", "place", "policy", "event")
            if old.get(what) != new.get(what)
        ]
    return changes


def _message(found: Summary, scope: str, message: DescriptorProto) -> None:
    name = f"{scope}.{message.name}"
    reserved = [str(n) for part in message.reserved_range for n in range(part.start, part.end)]
    found[name] = {
        "fields": {str(field.number): _field(field) for field in message.field},
        "reserved": [*reserved, *message.reserved_name],
    }
    if message.options.HasExtension(api.event):
        event = message.options.Extensions[api.event]
        found[name]["event"] = f"{event.topic} {event.key}"
    for inner in message.nested_type:
        _message(found, name, inner)
    for enum in message.enum_type:
        _enum(found, name, enum)


def _field(field: FieldDescriptorProto) -> str:
    kind = (
        field.type_name or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    )
    repeated = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    optional = "optional " if field.proto3_optional else ""
    return f"{field.name} {repeated}{optional}{kind}"


def _enum(found: Summary, scope: str, enum: EnumDescriptorProto) -> None:
    found[f"{scope}.{enum.name}"] = {"values": {str(row.number): row.name for row in enum.value}}


def _rpc(method: MethodDescriptorProto) -> dict[str, Any]:
    asks = "stream " * method.client_streaming + method.input_type
    tells = "stream " * method.server_streaming + method.output_type
    policy = method.options.Extensions[api.policy]
    operation = method.options.Extensions[api.operation]
    return {
        "rpc": f"{asks} -> {tells}",
        "place": f"{operation.http} {operation.success or 200}" if operation.http else "",
        "policy": " ".join(
            (
                api.Access.Name(policy.access),
                policy.scope or "-",
                api.Role.Name(policy.role),
                *sorted(policy.services),
            )
        ),
    }


PREVIOUS: Summary = json.loads(WRITTEN.read_text()) if WRITTEN.exists() else {}
"""As they last landed."""


if __name__ == "__main__":
    WRITTEN.write_text(json.dumps(summary_of(compiled()), indent=1) + "\n")
