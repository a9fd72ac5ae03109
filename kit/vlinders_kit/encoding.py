"""Protobuf's encoding, for messages that are joined of parts which are encoded already.

protobuf copies a message into the one that carries it, by writing and reading it again: several
microseconds a part, for what takes one to join.
"""

from functools import lru_cache

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_VARINT, _DELIMITED = 0, 2
_DELIMITED_TYPES = (
    FieldDescriptor.TYPE_BYTES,
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_MESSAGE,
)


def tag(message: type[Message], name: str) -> bytes:
    """What stands before the value of a field: an integer, bytes, a text or a message."""
    described = message.DESCRIPTOR.fields_by_name[name]
    kind = _DELIMITED if described.type in _DELIMITED_TYPES else _VARINT
    return varint(described.number << 3 | kind)


@lru_cache(maxsize=4096)
def varint(number: int) -> bytes:
    """A number, not negative.

    Few are new: lengths come again and again, and so does an exchange with each of its frames.
    """
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


def delimited(tag: bytes, value: bytes) -> bytes:
    """A field whose value has a length: what is in bytes, texts and messages."""
    return b"".join((tag, varint(len(value)), value))
