"""Requests against the rules in their contracts (protovalidate), told field by field."""

import protovalidate
from google.protobuf.message import Message

from vlinders_kit.errors import InvalidRequest, Violation

_validator = protovalidate.Validator()


def validate(request: Message) -> None:
    """Raises InvalidRequest with a violation for each field that breaks a rule."""
    found = _validator.collect_violations(request)
    if found:
        raise InvalidRequest(broken=tuple(_told(row) for row in found))


def _told(row: protovalidate.Violation) -> Violation:
    path = ""
    for element in row.proto.field.elements if row.proto.field else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None and element.subscript.field == "index":
            path += f"[{element.subscript.value}]"
    return Violation(path or "body", row.proto.message or row.proto.rule_id)
