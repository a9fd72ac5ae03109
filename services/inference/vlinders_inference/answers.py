"""Answers of engines, made ours: what clients see has our ids and OpenAI's shape, whoever answers.

A stream is read event by event and each event written anew around the bytes of its content, which
costs about two microseconds and leaves nothing of the engine's in it. Everything is bounded, since
an engine may be broken or hostile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from vlinders_inference.prices import NONE, Tokens
from vlinders_inference.requests import Ask

LARGEST_EVENT = 1024 * 1024
"""Bytes of one event of a stream."""

LARGEST_ANSWER = 32 * 1024 * 1024
"""Bytes of an answer that is no stream."""

EVENTS_PER_TOKEN = 16
"""Some engines send a token in pieces; one that sends more than these does not keep its bound."""

SPARE_EVENTS = 256

DONE = b"data: [DONE]\n\n"

_WRONG = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_REASONS = {reason: reason for reason in ("stop", "length", "tool_calls", "content_filter")}
_NO_TEXT = Raw(b'""')
_NULL = Raw(b"null")
_NOTHING = (_NULL, _NO_TEXT, Raw(b"[]"))
_encode = msgspec.json.Encoder().encode


class BrokenAnswer(Exception):
    """What the engine sends is no answer. The message is ours and may be told."""


class _Choice(msgspec.Struct):
    index: int = 0
    delta: dict[str, Raw] | None = None
    message: dict[str, Raw] | None = None
    finish_reason: str | None = None
    logprobs: Raw = _NULL


class _Body(msgspec.Struct):
    """A chunk of a stream, or a whole completion."""

    choices: list[_Choice] = []
    usage: Raw = _NULL
    error: Raw = _NULL


class _Vectors(msgspec.Struct):
    data: list[dict[str, Raw]]
    usage: Raw = _NULL


class _Used(msgspec.Struct):
    usage: Raw = _NULL


_read_used = msgspec.json.Decoder(_Used).decode
_read_body = msgspec.json.Decoder(_Body).decode
_read_vectors = msgspec.json.Decoder(_Vectors).decode
_read_usage = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(slots=True)
class Whole:
    """A complete answer, for the client, with what it used."""

    body: bytes
    tokens: Tokens


class EventStream:
    """The events of one streamed chat completion, on their way to the client."""

    def __init__(self, ask: Ask, id: str, created: int) -> None:
        self.produced = 0
        """Events with something in them: each is a token or more."""
        self.finished = False
        """A reason to end was given: the answer is whole."""
        self.done = False
        """The engine has said that nothing more comes."""
        self.broken: str | None = None
        """Why nothing more can be read."""
        self._ask = ask
        name = _encode(ask.model.id)
        self._head = (
            b'data: {"id":"%s","object":"chat.completion.chunk","created":%d,"model":%s,"choices":['
            % (id.encode(), created, name)
        )
        self._open = self._head + b'{"index":0,"delta":'
        self._begun = False
        self._usage = _NULL
        self._rest = b""
        self._most = ask.max_tokens * EVENTS_PER_TOKEN + SPARE_EVENTS
        self._events = 0

    def feed(self, data: bytes) -> bytes:
        """The events for the client that `data` completes. Sets `broken` rather than raise."""
        data = self._rest + data if self._rest else data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(b"\n\n")
        out: list[bytes] = []
        try:
            for event in events:
                if self.done:
                    break
                self._take(event, out)
            if len(self._rest) > LARGEST_EVENT:
                raise BrokenAnswer("an event is too large")
        except BrokenAnswer as error:
            self.broken = str(error)
            self._rest = b""
        return b"".join(out)

    def end(self) -> bytes:
        """What the end of the connection completes; afterwards the stream is done or broken."""
        out = self.feed(b"\n\n") if self._rest and not self.done else b""
        if not self.done and self.broken is None:
            self.done = self.finished
            self.broken = None if self.finished else "the answer ended early"
        return out

    def tokens(self) -> Tokens:
        """What was used, as far as it came."""
        began = self.produced > 0 or self.finished
        return counted(self._usage, self._ask, produced=self.produced, began=began)

    def last(self, tokens: Tokens) -> bytes:
        """The end of a whole stream: usage if asked for, and DONE."""
        if not self._ask.include_usage:
            return DONE
        return self._head + b'],"usage":%s}\n\n' % _encode(_usage(tokens)) + DONE

    def _take(self, event: bytes, out: list[bytes]) -> None:
        self._events += 1
        if self._events > self._most:
            raise BrokenAnswer("the answer does not end")
        if b"\r" in event:
            event = event.replace(b"\r", b" ")  # else it would end a line of ours
        if event.startswith(b"data: ") and b"\n" not in event:
            payload = event[6:]
        elif not (payload := _data_of(event)):
            return  # a comment, or a field that carries nothing
        if payload.strip() == b"[DONE]":
            self.done = True
            if not self.finished:
                raise BrokenAnswer("the answer ended without a reason")
            return
        try:
            chunk = _read_body(payload)
        except _WRONG:
            raise BrokenAnswer("an event is no chunk") from None
        if chunk.usage != _NULL:
            self._usage = chunk.usage
        if chunk.error != _NULL:
            raise BrokenAnswer("the engine reported an error")
        for choice in chunk.choices:
            if choice.index == 0 and not self.finished:
                self._choice(choice, out)

    def _choice(self, choice: _Choice, out: list[bytes]) -> None:
        delta = choice.delta or {}
        content = delta.get("content", _NULL)
        if len(delta) == 1 and self._begun and content not in _NOTHING:
            self.produced += 1
            out.append(b'%s{"content":%s}%s' % (self._open, content, _close(choice)))
        else:
            self._unusual(choice, delta, out)
        if choice.finish_reason is not None:
            out.append(self._finish(choice.finish_reason))
            self.finished = True

    def _unusual(self, choice: _Choice, delta: dict[str, Raw], out: list[bytes]) -> None:
        """A first event, which names the role, or one with other than text."""
        full = {key: raw for key, raw in delta.items() if key != "role" and raw not in _NOTHING}
        if full:
            self.produced += 1
        if not self._begun:
            self._begun = True
            first = {"role": "assistant", "content": full.pop("content", _NO_TEXT)}
            out.append(b"%s%s%s" % (self._open, _encode(first), _close(choice)))
        if full:
            out.append(b"%s%s%s" % (self._open, _encode(full), _close(choice)))

    def _finish(self, reason: str) -> bytes:
        known = _REASONS.get(reason, "stop").encode()
        return b'%s{},"finish_reason":"%s"}]}\n\n' % (self._open, known)


def completion(body: bytes, ask: Ask, id: str, created: int) -> Whole:
    """A chat completion that came whole. Raises BrokenAnswer."""
    try:
        read = _read_body(body)
    except _WRONG:
        raise BrokenAnswer("the answer is no completion") from None
    choice = next((choice for choice in read.choices if choice.index == 0), None)
    if read.error != _NULL or choice is None or choice.message is None:
        raise BrokenAnswer("the answer has no choice")
    message = {key: raw for key, raw in choice.message.items() if raw != _NULL}
    produced = sum(len(memoryview(raw)) for key, raw in message.items() if key != "role") // 4
    tokens = counted(read.usage, ask, produced=max(produced, 1), began=True, exactly=False)
    given: dict[str, Any] = {
        "index": 0,
        "message": {**message, "role": "assistant", "content": message.get("content", _NO_TEXT)},
        "finish_reason": _REASONS.get(choice.finish_reason or "stop", "stop"),
    }
    if choice.logprobs != _NULL:
        given["logprobs"] = choice.logprobs
    answer = {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": ask.model.id,
        "choices": [given],
        "usage": _usage(tokens),
    }
    return Whole(_encode(answer), tokens)


def used(body: bytes, ask: Ask) -> Tokens:
    """What an engine that was told to stop says that it had used, in an answer like any other."""
    try:
        usage = _read_used(body).usage
    except _WRONG:
        usage = _NULL
    return counted(usage, ask, produced=0, began=False)


def embeddings(body: bytes, ask: Ask, id: str, created: int) -> Whole:
    """Embeddings that came whole. Raises BrokenAnswer."""
    try:
        read = _read_vectors(body)
    except _WRONG:
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
    return Whole(_encode(answer), tokens)


Reader = Callable[[bytes, Ask, str, int], Whole]
"""`completion` or `embeddings`."""


def counted(raw: Raw, ask: Ask, *, produced: int, began: bool, exactly: bool = True) -> Tokens:
    """The engine's count, where it is possible; what came, counted by us, where it is not.

    `produced` is the least that the answer has; with `exactly` False it is a guess that serves
    only when the engine says nothing. Where nothing `began`, nothing was used.
    """
    said = _said(raw)
    if said is None:
        if not began:
            return NONE
        return Tokens(ask.prompt_guess, 0, min(produced, ask.max_tokens), estimated=True)
    prompt, output = _count(said, "prompt_tokens"), _count(said, "completion_tokens")
    estimated = said.get("estimated") is True  # an own worker's word for an engine's silence
    if prompt is None or prompt > ask.prompt_most or (prompt == 0 and began):
        prompt, estimated = ask.prompt_guess, True
    if output is None or (output == 0 and produced > 0 and exactly):
        estimated = estimated or ask.max_tokens > 0
        output = produced
    if output > ask.max_tokens:
        estimated = estimated or ask.max_tokens > 0
        output = ask.max_tokens
    details = said.get("prompt_tokens_details")
    cached = _count(details, "cached_tokens") if isinstance(details, dict) else 0
    cached = min(cached or 0, prompt)
    return Tokens(prompt - cached, cached, output, estimated)


def _said(raw: Raw) -> dict[str, Any] | None:
    if raw == _NULL:
        return None
    try:
        return _read_usage(raw)
    except _WRONG:
        return None


def _count(said: dict[str, Any], name: str) -> int | None:
    value = said.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return None


def _usage(tokens: Tokens) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.prompt + tokens.output,
    }
    if tokens.cached:
        usage["prompt_tokens_details"] = {"cached_tokens": tokens.cached}
    return usage


def _close(choice: _Choice) -> bytes:
    if choice.logprobs == _NULL:
        return b',"finish_reason":null}]}\n\n'
    return b',"logprobs":%s,"finish_reason":null}]}\n\n' % choice.logprobs


def _data_of(event: bytes) -> bytes:
    """The payload of an event by the rules of server-sent events (WHATWG HTML 9.2.6).

    Its lines are joined by spaces, which JSON takes for the same, and never end a line of ours.
    """
    return b" ".join(line[5:] for line in event.split(b"\n") if line[:5] == b"data:")
