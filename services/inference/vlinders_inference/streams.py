"""Streams of engines, made ours: event by event, each written anew around the bytes of its content.

That costs some three microseconds an event and leaves nothing of the engine's in it: neither its
ids, nor fields that clients do not know. Everything is bounded: an engine may be broken or hostile.

Nearly all events of a stream are alike but for their text. Once one was read, those that have the
same bytes around theirs are not read any more, but for the text itself: that takes one microsecond.
"""

import re

from msgspec import Raw

from vlinders_inference.answers import (
    NO_TEXT,
    NULL,
    REASONS,
    WRONG,
    Body,
    BrokenAnswer,
    Choice,
    counted,
    encode,
    read_body,
    told_usage,
)
from vlinders_inference.prices import Tokens
from vlinders_inference.requests import Ask

LARGEST_EVENT = 1024 * 1024
"""Bytes of one event."""

EVENTS_PER_TOKEN = 16
"""Some engines send a token in pieces; one that sends more than these does not keep its bound."""

SPARE_EVENTS = 256
"""Events that carry no token: comments, usage, the end."""

DONE = b"data: [DONE]\n\n"

_UNFINISHED = b',"finish_reason":null}]}\n\n'
_NOTHING = (NULL, NO_TEXT, Raw(b"[]"))

_TEXT = re.compile(rb'(?:[ !#-\[\]-~\x80-\xff]++|\\["\\/bfnrt])++')
"""What may stand between the quotes of a JSON string, but for \\u; bytes beyond ASCII are checked
apart. Possessive, so that it never goes back: a hostile text takes no longer than another."""

_PROBE = Body(choices=[Choice(delta={"content": Raw(b'"probe"')})])

_MOST_FRAMES = 8
"""Of one stream that are learnt: an engine whose events are never alike costs no more for it."""


class EventStream:
    """The events of one streamed chat completion, on their way to the client."""

    def __init__(self, ask: Ask, id: str, created: int) -> None:
        self.produced = 0
        """Events with something in them: each is a token or more."""
        self.finished = False
        """A reason to end was given: the answer is whole."""
        self.finish_reason = ""
        """That reason, in OpenAI's words."""
        self.done = False
        """The engine has said that nothing more comes."""
        self.broken: str | None = None
        """Why nothing more can be read."""
        self._ask = ask
        self._head = (
            b'data: {"id":"%s","object":"chat.completion.chunk","created":%d,"model":%s,"choices":['
            % (id.encode(), created, encode(ask.model.id))
        )
        self._open = self._head + b'{"index":0,"delta":'
        self._before, self._after = self._open + b'{"content":"', b'"}' + _UNFINISHED
        """What stands around the text of an event of ours."""
        self._frame = b"", b""
        """What stands around the text of the engine's events, as the last one showed."""
        self._learnt = 0
        self._begun = False
        self._usage = NULL
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
                if not self._alike(event, out):
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
        return self._head + b'],"usage":%s}\n\n' % told_usage(tokens) + DONE

    def _alike(self, event: bytes, out: list[bytes]) -> bool:
        """Passes the text of an event on that is as the last one was, but for the text."""
        before, after = self._frame
        if not before or not event.startswith(before) or not event.endswith(after):
            return False
        begin, end = len(before), len(event) - len(after)
        if _TEXT.fullmatch(event, begin, end) is None:
            return False
        if not event.isascii():
            _check_text(event)
        self._events += 1
        if self._events > self._most:
            raise BrokenAnswer("the answer does not end")
        self.produced += 1
        out += (self._before, event[begin:end], self._after)
        return True

    def _learn(self, event: bytes, text: bytes) -> None:
        """Takes what stands around the text of this event for what stands around the next ones'.

        That is tried with another text: where it is read as nothing but that text, so is any.
        """
        self._learnt += 1
        at = event.find(text, event.find(b'"content"') + len(b'"content"'))
        before, after = event[: at + 1], event[at + len(text) - 1 :]
        try:
            tried = read_body(before[len(b"data: ") :] + b"probe" + after)
        except WRONG:
            return
        if tried == _PROBE:
            self._frame = before, after

    def _take(self, event: bytes, out: list[bytes]) -> None:
        self._events += 1
        if self._events > self._most:
            raise BrokenAnswer("the answer does not end")
        if b"\r" in event:
            event = event.replace(b"\r", b" ")  # else it would end a line of ours
        if not event.isascii():
            _check_text(event)
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
            chunk = read_body(payload)
        except WRONG:
            raise BrokenAnswer("an event is no chunk") from None
        if chunk.usage != NULL:
            self._usage = chunk.usage
        if chunk.error != NULL:
            raise BrokenAnswer("the engine reported an error")
        for choice in chunk.choices:
            if choice.index == 0 and not self.finished:
                self._choice(choice, out, event)

    def _choice(self, choice: Choice, out: list[bytes], event: bytes) -> None:
        delta = choice.delta or {}
        content = delta.get("content", NULL)
        if len(delta) == 1 and self._begun and content not in _NOTHING:
            self.produced += 1
            if self._learnt < _MOST_FRAMES and event.startswith(b"data: "):
                self._learn(event, bytes(content))
            out.append(b'%s{"content":%s}%s' % (self._open, content, _close(choice)))
        else:
            self._unusual(choice, delta, out)
        if choice.finish_reason is not None:
            out.append(self._finish(choice.finish_reason))
            self.finished = True
            self._frame = b"", b""

    def _unusual(self, choice: Choice, delta: dict[str, Raw], out: list[bytes]) -> None:
        """A first event, which names the role, or one with other than text."""
        full = {key: raw for key, raw in delta.items() if key != "role" and raw not in _NOTHING}
        if full:
            self.produced += 1
        if not self._begun:
            self._begun = True
            first = {"role": "assistant", "content": full.pop("content", NO_TEXT)}
            out.append(b"%s%s%s" % (self._open, encode(first), _close(choice)))
        if full:
            out.append(b"%s%s%s" % (self._open, encode(full), _close(choice)))

    def _finish(self, reason: str) -> bytes:
        self.finish_reason = known = REASONS.get(reason, "stop")
        return b'%s{},"finish_reason":"%s"}]}\n\n' % (self._open, known.encode())


def _close(choice: Choice) -> bytes:
    if choice.logprobs == NULL:
        return _UNFINISHED
    return b',"logprobs":%s,"finish_reason":null}]}\n\n' % choice.logprobs


def _check_text(event: bytes) -> None:
    """The bytes of content are passed on unread, so this is where they must prove to be UTF-8."""
    try:
        event.decode()
    except UnicodeDecodeError:
        raise BrokenAnswer("an event is no text") from None


def _data_of(event: bytes) -> bytes:
    """The payload of an event by the rules of server-sent events (WHATWG HTML 9.2.6).

    Its lines are joined by spaces, which JSON takes for the same, and never end a line of ours.
    """
    return b" ".join(line[5:] for line in event.split(b"\n") if line[:5] == b"data:")
