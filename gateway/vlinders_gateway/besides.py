"""What a request asks of another operation besides its own: read with it, done after it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from vlinders_gateway.codec import Codec
from vlinders_gateway.dialects import Dialect
from vlinders_gateway.operations import Operation, named
from vlinders_gateway.rules import check
from vlinders_kit.errors import Violation

Json = Any

_LATER = "-"
"""Stands for what the answer of the request's own operation will tell."""


@dataclass(frozen=True)
class Further:
    """The other operation, as requests of one dialect ask for it."""

    operation: Operation
    by: str
    codec: Codec

    @staticmethod
    def of(dialect: Dialect, operation: Operation) -> "Further | None":
        """What a request for `operation` may ask besides."""
        besides = dialect.besides.get(operation.name)
        if besides is None:
            return None
        return Further(named(besides.operation), besides.by, dialect.codec)

    def asked(self, body: Mapping[str, Json], faults: list[Violation]) -> Message | None:
        """The request for it, where `body` has one; what is wrong with it is added to `faults`."""
        found: list[Violation] = []
        request: Message = self.codec.load(self.operation.request, body, faults=found)
        request.ClearField(self.by)
        if not found and not request.ListFields():
            return None
        setattr(request, self.by, _LATER)
        check(request, found)
        faults += found
        return request

    def told(self, request: Message, answer: Message) -> Message:
        """The request, now that the answer tells of whom."""
        setattr(request, self.by, getattr(answer, self.by))
        return request
