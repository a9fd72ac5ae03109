"""From what a service is asked and keeps to what it answers, field by field of the same name."""

from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


def to_message(kind: type[M], row: Any, **given: Any) -> M:
    """A `kind` filled from `given`, and for the rest from the attributes of `row`.

    Raises AttributeError for a field that neither has, and TypeError for what is given and is no
    field, so that names stay honest.
    """
    message = kind()
    if strange := given.keys() - kind.DESCRIPTOR.fields_by_name.keys():
        raise TypeError(f"{kind.DESCRIPTOR.full_name} has no {', '.join(sorted(strange))}")
    for field in kind.DESCRIPTOR.fields:
        value = given[field.name] if field.name in given else getattr(row, field.name)
        if value is None:
            continue
        if field.is_repeated:
            getattr(message, field.name).extend(value)
        elif isinstance(value, datetime):
            getattr(message, field.name).FromDatetime(value)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)
    return message


def said(message: Message, *names: str) -> dict[str, Any]:
    """What `message` says of its optional fields `names`, by name, without those it leaves out."""
    return {name: getattr(message, name) for name in names if message.HasField(name)}
