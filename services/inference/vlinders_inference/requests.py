"""Requests of clients: what they must be, and what of them goes on to an engine.

A body is taken apart at its top only: the messages are looked at and then travel as the bytes that
they came as. What is not named here is OpenAI's or an engine's and goes on untouched.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from vlinders_inference.catalogue import Model
from vlinders_kit.errors import MOST_VIOLATIONS, InvalidRequest, Violation, invalid

DEFAULT_MAX_TOKENS = 2048
"""Tokens of an answer whose request names no bound, where the model allows as many."""

MOST_INPUTS = 2048
"""Texts of one request for embeddings."""

DROPPED = frozenset(
    ("n", "best_of", "service_tier", "stream_options", "max_tokens", "max_completion_tokens")
)
"""Fields that do not go on as they come: the first three multiply what a request costs beyond what
it was admitted with (`n` counts as 1, as the contract allows), the others are written anew."""

_DROPPED_OF_EMBEDDINGS = DROPPED | {"stream"}
_ROLES = ("system", "developer", "user", "assistant", "tool")
_MANY = "must be an array of at least one message"


class Ask(Struct, eq=False):
    """A valid request, with what it may come to."""

    model: Model
    fields: dict[str, Any]
    """What goes on to the engine, but for the model's name and the bounds."""
    stream: bool
    include_usage: bool
    prompt_bound: int
    """Tokens that the prompt has at most: a token is a byte or more."""
    prompt_most: int
    """Tokens that the model can take in at all: an engine that counts more is not believed."""
    prompt_guess: int
    """Tokens that the prompt has, about, for planning and for engines that do not count."""
    max_tokens: int
    """Tokens that the answer may have; 0 for embeddings."""
    limit_field: str
    """Under which name the client gave that bound."""


class _Part(Struct):
    type: Literal["text"]
    text: str


class _Message(Struct):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    tool_calls: Raw = Raw(b"null")


class _StreamOptions(Struct):
    include_usage: bool | None = None


@dataclass(frozen=True, slots=True)
class _Field:
    decoder: msgspec.json.Decoder[Any]
    rule: str


def _field(kind: Any, rule: str) -> _Field:
    return _Field(msgspec.json.Decoder(kind), rule)


_NAME = Annotated[str, Meta(min_length=1, max_length=200)]
_COUNT = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_CHAT: Mapping[str, _Field] = {
    "model": _field(_NAME, "must be the id of a model"),
    "max_tokens": _field(_COUNT, "must be a whole number from 1"),
    "max_completion_tokens": _field(_COUNT, "must be a whole number from 1"),
    "temperature": _field(Annotated[float, Meta(ge=0, le=2)], "must be a number from 0 to 2"),
    "top_p": _field(Annotated[float, Meta(ge=0, le=1)], "must be a number from 0 to 1"),
    "stream": _field(bool, "must be true or false"),
    "stream_options": _field(_StreamOptions, "must be an object like {include_usage: true}"),
    "stop": _field(
        str | Annotated[list[str], Meta(max_length=4)], "must be a string or up to 4 strings"
    ),
    "seed": _field(int, "must be a whole number"),
    "tools": _field(list[dict[str, Raw]], "must be an array of objects"),
}
_EMBEDDINGS: Mapping[str, _Field] = {
    "model": _CHAT["model"],
    "encoding_format": _field(Literal["float", "base64"], 'must be "float" or "base64"'),
    "dimensions": _field(_COUNT, "must be a whole number from 1"),
}
_BODY = msgspec.json.Decoder(dict[str, Raw])
_MESSAGES = msgspec.json.Decoder(Annotated[list[_Message], Meta(min_length=1)])
_LIST = msgspec.json.Decoder(list[Raw])
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_TEXTS = msgspec.json.Decoder(
    Annotated[str, Meta(min_length=1)]
    | Annotated[
        list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=MOST_INPUTS)
    ]
)
_NULL = Raw(b"null")
_WRONG = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_encode = msgspec.json.Encoder().encode


def read_chat(body: bytes, find: Callable[[str], Model]) -> Ask:
    """The request for a chat completion in `body`; `find` gives the model of an id.

    Raises InvalidRequest with a violation for each bad field, and what `find` raises.
    """
    fields = _top(body)
    broken: list[Violation] = []
    values = _values(fields, _CHAT, broken)
    messages = fields.get("messages")
    if messages is None:
        broken.append(Violation("messages", _MANY))
    else:
        _check_messages(messages, broken)
    model = _model(values, broken, find)
    if model.embeddings:
        raise invalid("model", f"{model.id} makes embeddings; it does not chat")
    limit = "max_completion_tokens" if "max_completion_tokens" in values else "max_tokens"
    wanted = values.get(limit)
    if wanted is not None and wanted > model.max_tokens:
        raise invalid(limit, f"must be from 1 to {model.max_tokens}")
    options = values.get("stream_options")
    return Ask(
        model=model,
        fields={name: raw for name, raw in fields.items() if name not in DROPPED},
        stream=bool(values.get("stream")),
        include_usage=bool(options is not None and options.include_usage),
        prompt_bound=min(len(body), model.context_length),
        prompt_most=model.context_length,
        prompt_guess=_guess(messages, model.context_length),
        max_tokens=wanted or min(DEFAULT_MAX_TOKENS, model.max_tokens),
        limit_field=limit,
    )


def read_embeddings(body: bytes, find: Callable[[str], Model]) -> Ask:
    """The request for embeddings in `body`; as `read_chat`."""
    fields = _top(body)
    broken: list[Violation] = []
    values = _values(fields, _EMBEDDINGS, broken)
    texts = fields.get("input")
    inputs = 1
    try:
        given = _TEXTS.decode(texts) if texts is not None else None
        inputs = len(given) if isinstance(given, list) else 1
    except _WRONG:
        given = None
    if given is None:
        rule = f"must be a string or up to {MOST_INPUTS} strings, none of them empty"
        broken.append(Violation("input", rule))
    model = _model(values, broken, find)
    if not model.embeddings:
        raise invalid("model", f"{model.id} does not make embeddings")
    return Ask(
        model=model,
        fields={name: raw for name, raw in fields.items() if name not in _DROPPED_OF_EMBEDDINGS},
        stream=False,
        include_usage=False,
        prompt_bound=min(len(body), model.context_length * inputs),
        prompt_most=model.context_length * inputs,
        prompt_guess=_guess(texts, model.context_length * inputs),
        max_tokens=0,
        limit_field="",
    )


def body_for(ask: Ask, name: str, limit_field: str | None, *, stream: bool = False) -> bytes:
    """The body that asks an engine for it: the model under the engine's `name`, usage always.

    With `stream` it is asked to stream what the client wants whole.
    """
    fields = ask.fields
    fields["model"] = name
    if ask.max_tokens:
        fields.pop("max_tokens", None)
        fields.pop("max_completion_tokens", None)
        fields[limit_field or ask.limit_field] = ask.max_tokens
    if ask.stream:
        fields["stream_options"] = {"include_usage": True}
    elif stream:
        return _encode(fields | {"stream": True, "stream_options": {"include_usage": True}})
    return _encode(fields)


def _top(body: bytes) -> dict[str, Raw]:
    try:
        return _BODY.decode(body)
    except _WRONG:
        raise invalid("body", "must be a JSON object") from None


def _values(
    fields: Mapping[str, Raw], known: Mapping[str, _Field], broken: list[Violation]
) -> dict[str, Any]:
    """The values of known fields that are there; null is as good as absent."""
    values = {}
    for name, raw in fields.items():
        field = known.get(name)
        if field is None or raw == _NULL:
            continue
        try:
            values[name] = field.decoder.decode(raw)
        except _WRONG:
            broken.append(Violation(name, field.rule))
    return values


def _model(
    values: Mapping[str, Any], broken: list[Violation], find: Callable[[str], Model]
) -> Model:
    """The model that is asked for, once nothing else is wrong: 400 comes before 404."""
    name = values.get("model")
    if name is None and not any(violation.field == "model" for violation in broken):
        broken.insert(0, Violation("model", _CHAT["model"].rule))
    if broken:
        raise InvalidRequest(broken=tuple(broken))
    return find(str(name))


def _guess(raw: Raw | None, most: int) -> int:
    """About four bytes of JSON are a token."""
    return max(1, min(len(memoryview(raw)) // 4 if raw is not None else 1, most))


def _check_messages(messages: Raw, broken: list[Violation]) -> None:
    try:
        for index, message in enumerate(_MESSAGES.decode(messages)):
            if message.content is not None:
                continue
            if message.role != "assistant" or message.tool_calls == _NULL:
                broken.append(_no_content(index))
                if len(broken) >= MOST_VIOLATIONS:
                    return
    except _WRONG:
        broken.extend(islice(_explained(messages), MOST_VIOLATIONS))


def _explained(messages: Raw) -> Iterator[Violation]:
    """What is wrong with messages that are wrong: one violation for each bad field."""
    try:
        rows = _LIST.decode(messages)
    except _WRONG:
        rows = []
    if not rows:
        yield Violation("messages", _MANY)
    for index, row in enumerate(rows):
        yield from _of_message(index, row)


def _of_message(index: int, row: Raw) -> Iterator[Violation]:
    try:
        fields = _OBJECT.decode(row)
    except _WRONG:
        yield Violation(f"messages[{index}]", "must be an object with role and content")
        return
    role, content = _plain(fields.get("role")), _plain(fields.get("content"))
    if role not in _ROLES:
        yield Violation(f"messages[{index}].role", f"must be one of {', '.join(_ROLES)}")
    if isinstance(content, list):
        yield from _of_parts(index, content)
    elif not isinstance(content, str):
        calls = role == "assistant" and fields.get("tool_calls", _NULL) != _NULL
        if content is not None or not calls:
            yield _no_content(index)


def _of_parts(index: int, parts: list[Any]) -> Iterator[Violation]:
    for number, part in enumerate(parts):
        path = f"messages[{index}].content[{number}]"
        if not isinstance(part, dict):
            yield Violation(path, "must be an object with type and text")
        elif part.get("type") != "text":
            yield Violation(f"{path}.type", 'must be "text"')
        elif not isinstance(part.get("text"), str):
            yield Violation(f"{path}.text", "must be a string")


def _no_content(index: int) -> Violation:
    return Violation(f"messages[{index}].content", "must be a string or an array of text parts")


def _plain(raw: Raw | None) -> Any:
    try:
        return msgspec.json.decode(raw) if raw is not None else None
    except _WRONG:
        return ...
