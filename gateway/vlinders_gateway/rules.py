"""The rules of the contracts (protovalidate): what breaks them, and how JSON schema has them."""

from typing import Any

from buf.validate import validate_pb2 as rules
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from vlinders_kit.errors import InvalidRequest, Violation
from vlinders_kit.validation import validate

Schema = dict[str, Any]


def needed(kind: Any) -> set[str]:
    """Fields without which a message of this kind is refused: those that an empty one lacks."""
    try:
        validate(GetMessageClass(kind)())
    except InvalidRequest as error:
        return {row.field.partition(".")[0] for row in error.broken}
    return set()


def check(request: Message, faults: list[Violation]) -> None:
    """Adds what breaks a rule of the contract, but for fields that were not read at all."""
    unread = {fault.field.partition("[")[0] for fault in faults}
    try:
        validate(request)
    except InvalidRequest as error:
        broken = error.broken
        faults += [row for row in broken if row.field.partition("[")[0] not in unread]


def limits_of(field: Any) -> Schema:
    """What a field may be, or how many it may hold."""
    rule = rules_of(field)
    return _array_limits(rule.repeated) if field.is_repeated else _limits(rule)


def item_limits_of(field: Any) -> Schema:
    """What each of the items of a repeated field may be."""
    return _limits(rules_of(field).repeated.items)


def rules_of(field: Any) -> Any:
    return field.GetOptions().Extensions[rules.field]


def _limits(rule: Any) -> Schema:
    text, found = rule.string, {}
    if rule.HasField("string"):
        for name, word in (("min_len", "minLength"), ("max_len", "maxLength")):
            if text.HasField(name):
                found[word] = getattr(text, name)
        if text.HasField("pattern"):
            found["pattern"] = text.pattern
        if text.HasField("email"):
            found["format"] = "email"
        if getattr(text, "in"):
            found["enum"] = list(getattr(text, "in"))
    if getattr(rule.enum, "in"):
        found["enum"] = list(getattr(rule.enum, "in"))
    for kind in ("int32", "int64"):
        number = getattr(rule, kind)
        if rule.HasField(kind):
            for name, word in (("gte", "minimum"), ("lte", "maximum")):
                if number.HasField(name):
                    found[word] = getattr(number, name)
    return found


def _array_limits(rule: Any) -> Schema:
    found: Schema = {}
    for name, word in (("min_items", "minItems"), ("max_items", "maxItems")):
        if rule.HasField(name):
            found[word] = getattr(rule, name)
    if rule.unique:
        found["uniqueItems"] = True
    return found
