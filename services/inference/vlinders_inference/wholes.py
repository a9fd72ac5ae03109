"""Whole answers: read as they are, or gathered from an engine that is asked to stream them.

What is gathered is known at each moment, also when the client leaves before all of it is there.
"""

from typing import Protocol

from msgspec import Raw

from vlinders_inference.answers import (
    LARGEST_ANSWER,
    BrokenAnswer,
    Reader,
    Whole,
    completion,
    encode,
    told_usage,
    used,
)
from vlinders_inference.prices import NONE, Tokens
from vlinders_inference.requests import Ask
from vlinders_inference.streams import EventStream
from vlinders_kit.completions import Assembly


class Taker(Protocol):
    """Takes one answer in."""

    def feed(self, data: bytes, *, last: bool) -> bool:
        """Takes in what has come; `last`: there is no more. Whether that was all.

        Raises BrokenAnswer.
        """
        ...

    def whole(self) -> Whole:
        """The answer. Raises BrokenAnswer."""
        ...

    def used(self) -> Tokens:
        """What the engine had used, of an answer that was left."""
        ...


class Pieces:
    """An answer that comes whole. `unsaid` are the tokens of the prompt that an engine used that
    was stopped, and says nothing of it."""

    def __init__(self, ask: Ask, id: str, created: int, read: Reader, unsaid: int) -> None:
        self._ask = ask
        self._id = id
        self._created = created
        self._read = read
        self._unsaid = unsaid
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes, *, last: bool) -> bool:
        self._pieces.append(data)
        self._size += len(data)
        if self._size > LARGEST_ANSWER:
            raise BrokenAnswer("the answer is too large")
        return last

    def whole(self) -> Whole:
        return self._read(b"".join(self._pieces), self._ask, self._id, self._created)

    def used(self) -> Tokens:
        said = used(b"".join(self._pieces), self._ask)
        if said != NONE or not self._unsaid:
            return said
        return Tokens(input=self._unsaid, estimated=True)


class Gathering:
    """An answer that is streamed, put together."""

    def __init__(self, ask: Ask, id: str, created: int) -> None:
        self._ask = ask
        self._id = id
        self._created = created
        self._events = EventStream(ask, id, created)
        self._assembly = Assembly()
        self._size = 0

    def feed(self, data: bytes, *, last: bool) -> bool:
        self._size += len(data)
        if self._size > LARGEST_ANSWER:
            raise BrokenAnswer("the answer is too large")
        events = self._events
        out = events.feed(data)
        if last:
            out += events.end()
        for event in out.split(b"\n\n")[:-1]:
            self._assembly.add(event.removeprefix(b"data: "))
        return events.done or events.broken is not None

    def whole(self) -> Whole:
        if self._events.broken is not None:
            raise BrokenAnswer(self._events.broken)
        tokens = self._events.tokens()
        body = encode(self._assembly.whole(Raw(told_usage(tokens))))
        whole = completion(body, self._ask, self._id, self._created)
        whole.tokens = tokens  # as the stream was counted, estimated or not
        return whole

    def used(self) -> Tokens:
        return self._events.tokens()
