"""What is still to be said on a stream: gathered while the loop turns, told in one message."""

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Outgoing(Generic[T]):
    """The words of one stream that wait to be sent."""

    def __init__(self) -> None:
        self._words: list[T] = []
        self._wake = asyncio.Event()
        self._sent = asyncio.Event()
        self._closed = False
        self._error: Exception | None = None

    def put(self, word: T) -> None:
        self._words.append(word)
        self._wake.set()

    def stir(self) -> None:
        """Has the next gathering come without a word: there is something to say that is no word."""
        self._wake.set()

    def close(self, error: Exception | None = None) -> None:
        """Ends the stream after what waits, with `error` if there is one. The first end counts."""
        if not self._closed:
            self._closed = True
            self._error = error
        self._wake.set()
        self._sent.set()

    async def gathered(self) -> AsyncIterator[list[T]]:
        """All that was put since the time before, each time there is something."""
        while not (self._closed and not self._words):
            await self._wake.wait()
            self._wake.clear()
            words, self._words = self._words, []
            self._sent.set()
            yield words
        if self._error is not None:
            raise self._error

    async def room(self, most: int) -> None:
        """Returns when no more than `most` words wait: who does not listen is not heard either."""
        while len(self._words) > most and not self._closed:
            self._sent.clear()
            await self._sent.wait()
