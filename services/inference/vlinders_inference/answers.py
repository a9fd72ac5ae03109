"""Answers of engines, made ours: with our ids and in OpenAI's shape, whoever answers.

This is about answers that come whole, and about what any answer used; `streams` is about streams.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from vlinders_inference.prices import NONE, Tokens
from vlinders_inference.requests import Ask

LARGEST_ANSWER = 32 * 1024 * 1024
"""Bytes of an answer that is no stream."""

BYTES_PER_TOKEN = 4
"""About, in answers whose engine does not say what it produced."""

WRONG = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
REASONS = {reason: reason for reason in ("stop", "length", "tool_calls", "content_filter")}
NO_TEXT = Raw(b'""')
NULL = Raw(b"null")
encode = msgspec.json.Encoder().encode


class BrokenAnswer(Exception):
    """What the engine sends is no answer. The message is ours and may be told."""


class Choice(msgspec.Struct):
    index: int = 0
    delta: dict[str, Raw] | None = None
    message: dict[str, Raw] | None = None
    finish_reason: str | None = None
    logprobs: Raw = NULL


class Body(msgspec.Struct):
    """A chunk of a stream, or a whole completion."""

    choices: list[Choice] = []
    usage: Raw = NULL
    error: Raw = NULL


class _Vectors(msgspec.Struct):
    data: list[dict[str, Raw]]
    usage: Raw = NULL


class _Used(msgspec.Struct):
    usage: Raw = NULL


class _Usage(msgspec.Struct):
    """An engine's count, of which each part may be anything."""

    prompt_tokens: Any = None
    completion_tokens: Any = None
    prompt_tokens_details: Any = None
    estimated: Any = None
    """An own worker's word for an engine's silence."""


_read_used = msgspec.json.Decoder(_Used).decode
read_body = msgspec.json.Decoder(Body).decode
_read_vectors = msgspec.json.Decoder(_Vectors).decode
_read_usage = msgspec.json.Decoder(_Usage).decode


class Whole(msgspec.Struct, eq=False):
    """A complete answer, for the client, with what it used."""

    body: bytes
    tokens: Tokens
    finish_reason: str = ""


def completion(body: bytes, ask: Ask, id: str, created: int) -> Whole:
    """A chat completion that came whole. Raises BrokenAnswer."""
    try:
        read = read_body(body)
        if not body.isascii():
            body.decode()  # the text is passed on unread: this is where it proves to be UTF-8
    except WRONG:
        raise BrokenAnswer("the answer is no completion") from None
    choice = _first(read.choices)
    if read.error != NULL or choice is None or choice.message is None:
        raise BrokenAnswer("the answer has no choice")
    message = choice.message
    message.pop("role", None)
    content = message.pop("content", NULL)
    more = {key: raw for key, raw in message.items() if raw != NULL} if message else message
    size = _size(content)
    for raw in more.values():
        size += _size(raw)
    tokens = counted(read.usage, ask, produced=-(-size // BYTES_PER_TOKEN), began=True)
    reason = REASONS.get(choice.finish_reason or "stop", "stop")
    # Put together from its pieces, which takes a third of what encoding a dict of them does.
    answer = (
        b'{"id":"%s","object":"chat.completion","created":%d,"model":%s,"choices":[{"index":0,'
        b'"message":{"role":"assistant","content":%s%s},"finish_reason":"%s"%s}],"usage":%s}'
        % (
            id.encode(),
            created,
            encode(ask.model.id),
            content if content != NULL else NO_TEXT,
            b"," + encode(more)[1:-1] if more else b"",
            reason.encode(),
            b',"logprobs":%s' % choice.logprobs if choice.logprobs != NULL else b"",
            told_usage(tokens),
        )
    )
    return Whole(answer, tokens, reason)


def used(body: bytes, ask: Ask) -> Tokens:
    """What an engine that was told to stop says that it had used, in an answer like any other."""
    try:
        usage = _read_used(body).usage
    except WRONG:
        usage = NULL
    return counted(usage, ask, produced=0, began=False)


def embeddings(body: bytes, ask: Ask, id: str, created: int) -> Whole:
    """Embeddings that came whole. Raises BrokenAnswer."""
    try:
        read = _read_vectors(body)
    except WRONG:
        raise BrokenAnswer("the answer has no embeddings") from None
    if not read.data or any("embedding" not in row for row in read.data):
        raise BrokenAnswer("the answer has no embeddings")
    tokens = counted(read.usage, ask, produced=0, began=True)
    rows = [
        {"object": "embedding", "index": index, "embedding": row["embedding"]}
        for index, row in enumerate(read.data)
    ]
    usage = {"prompt_tokens": tokens.prompt, "total_tokens": tokens.prompt}
    answer = {"object": "list", "data": rows, "model": ask.model.id, "usage": usage}
    return Whole(encode(answer), tokens)


Reader = Callable[[bytes, Ask, str, int], Whole]
"""`completion` or `embeddings`."""


def counted(raw: Raw, ask: Ask, *, produced: int, began: bool) -> Tokens:
    """What was used: the engine's count `raw` where it is possible, ours where it is not.

    `produced` is the least that the answer had. Where nothing `began` and the engine says nothing,
    nothing was used.
    """
    said = _said(raw)
    if said is None:
        if not began:
            return NONE
        return Tokens(ask.prompt_guess, 0, min(produced, ask.max_tokens), estimated=True)
    prompt, output = _count(said.prompt_tokens), _count(said.completion_tokens)
    estimated = said.estimated is True
    if prompt is None or prompt > ask.prompt_most or (prompt == 0 and began):
        prompt, estimated = ask.prompt_guess, True
    if ask.max_tokens == 0:
        output = 0
    elif output is None or output > ask.max_tokens or (output == 0 and produced > 0):
        output = min(output or produced, ask.max_tokens)
        estimated = True
    details = said.prompt_tokens_details
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    cached = min(cached or 0, prompt)
    return Tokens(prompt - cached, cached, output, estimated)


def told_usage(tokens: Tokens) -> bytes:
    """The usage of an answer, in JSON."""
    prompt, cached = tokens.prompt, b""
    if tokens.cached:
        cached = b',"prompt_tokens_details":{"cached_tokens":%d}' % tokens.cached
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d%s}' % (
        prompt,
        tokens.output,
        prompt + tokens.output,
        cached,
    )


def _first(choices: list[Choice]) -> Choice | None:
    for choice in choices:
        if choice.index == 0:
            return choice
    return None


def _size(raw: Raw) -> int:
    """Bytes of a text, or about, as it stands in an answer."""
    return len(memoryview(raw)) - 2 if raw != NULL else 0


def _said(raw: Raw) -> _Usage | None:
    if raw == NULL:
        return None
    try:
        return _read_usage(raw)
    except WRONG:
        return None


def _count(value: object) -> int | None:
    # `type`, since True is an int for `isinstance`.
    return value if type(value) is int and value >= 0 else None
