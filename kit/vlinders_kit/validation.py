"""Requests against the rules in their contracts (protovalidate), told field by field."""

from collections.abc import Iterator

import protovalidate
from google.protobuf.message import Message

from vlinders_kit.errors import InvalidRequest, Violation

_validator = protovalidate.Validator()


def validate(request: Message) -> None:
    """Raises InvalidRequest with a violation for each field that breaks a rule.

    One rule is every text's: it has no U+0000, which Postgres cannot keep.
    """
    found = [_told(row) for row in _validator.collect_violations(request)]
    if b"\0" in request.SerializeToString():  # of a text, a number or the length of nothing
        found += [Violation(path, "must not contain U+0000") for path in _with_nul(request)]
    if found:
        raise InvalidRequest(broken=tuple(found))


def _with_nul(message: Message, above: str = "") -> Iterator[str]:
    for field, value in message.ListFields():
        path = above + field.name
        places = {f"{path}[{i}]": item for i, item in enumerate(value)} if field.is_repeated else {}
        for place, item in (places or {path: value}).items():
            if isinstance(item, str) and "\0" in item:
                yield place
            elif isinstance(item, Message):
                yield from _with_nul(item, f"{place}.")


def _told(row: protovalidate.Violation) -> Violation:
    path = ""
    for element in row.proto.field.elements if row.proto.field else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None and element.subscript.field == "index":
            path += f"[{element.subscript.value}]"
    rule = row.proto.rule_id
    # A rule of the whole message is named for the field that its client has to change.
    path = path or rule.rpartition(".")[0] or "body"
    return Violation(path, row.proto.message or rule, rule)
