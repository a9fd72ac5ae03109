"""Free-form JSON inside messages: Struct, Value and ListValue, filled and shown as they are."""

from typing import Any

from google.protobuf.struct_pb2 import ListValue, Struct, Value

Json = Any


def fill_plain(message: Value | Struct | ListValue, value: Json) -> str:
    """Sets `message` to `value`; answers what it should have been, or nothing."""
    if isinstance(message, Struct) and isinstance(value, dict):
        message.update(value)
    elif isinstance(message, ListValue) and isinstance(value, list):
        message.extend(value)
    elif isinstance(message, Value):
        holder = Struct()
        holder.update({"value": value})
        message.CopyFrom(holder.fields["value"])
    else:
        return "an object" if isinstance(message, Struct) else "an array"
    return ""


def plain(value: Any) -> Json:
    """The JSON that it holds; whole numbers as integers."""
    if isinstance(value, Struct):
        return {name: plain(inner) for name, inner in value.fields.items()}
    if isinstance(value, ListValue):
        return [plain(inner) for inner in value.values]
    kind = value.WhichOneof("kind")
    if kind in (None, "null_value"):
        return None
    inner = getattr(value, kind)
    if kind in ("struct_value", "list_value"):
        return plain(inner)
    return int(inner) if kind == "number_value" and inner.is_integer() else inner
