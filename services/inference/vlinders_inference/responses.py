"""Answers of engines, as they come: read when somebody waits, held up when nobody takes them."""

import asyncio
from collections.abc import Callable
from typing import Protocol

BUFFERED = 64 * 1024
"""Bytes of an answer that may wait for their reader before the engine is held up."""


class Disconnected(Exception):
    """There is no connection, or it broke, or what came over it is no HTTP."""


class Source(Protocol):
    """Where an answer comes from: the connection, as its answer may use it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def pause(self) -> None:
        """Reads no more until `resume`."""

    def resume(self) -> None: ...

    def half_close(self) -> None:
        """Shows the other side that nobody waits for the rest."""

    def abort(self) -> None: ...


class Response:
    """The answer to one request, as it comes."""

    def __init__(self, source: Source) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        """By lower-case name; of several, the last."""
        self.ended = False
        """Everything has come, though it may not have been read."""
        self._source = source
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._held = False
        self._error: Exception | None = None
        self._begun = False
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Callable[[bytes], bool] | None = None
        self._enough = False

    async def read(self) -> bytes:
        """The bytes that have come since the call before; empty at the end. Raises Disconnected."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.ended:
                return b""
            self._let_on()
            await self._wait()
        return self._all()

    def read_now(self) -> bytes:
        """What `read` gives, as far as it has come: nothing where that would wait, or raise."""
        return self._all() if self._pieces else b""

    @property
    def whole(self) -> bool:
        """Everything has come, and was read."""
        return self.ended and not self._pieces and self._error is None

    async def pump(self, sink: Callable[[bytes], bool]) -> None:
        """Has `sink` called with all that comes, as it comes, until it says False or that was all.

        Raises Disconnected, and what `sink` raises. No task runs for what comes meanwhile: to wake
        one costs five microseconds, as much as all else that is done with an event of a stream.
        After a False the engine is held up until somebody waits for the rest.
        """
        if self._pieces and not sink(self._all()):
            self._hold()
            return
        self._let_on()
        if not self.ended:
            self._sink, self._enough = sink, False
            try:
                await self._wait()
            finally:
                self._sink = None
            if self._enough:
                return
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wants no more, which ends the connection, unless the answer has ended already."""
        if not self.ended:
            self._source.abort()

    def stop(self) -> None:
        """Has the engine see that nobody waits for the rest. What it had sent still comes."""
        if not self.ended:
            self._source.half_close()

    async def begun(self) -> None:
        """Returns when status and headers have come. Raises Disconnected."""
        while not self._begun:
            if self._error is not None:
                raise self._error
            await self._wait()

    def begin(self, status: int) -> None:
        self.status = status
        self._begun = True

    def take(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._waiting += len(piece)
        if self._waiting > BUFFERED:
            self._hold()

    def end(self, error: Disconnected | None = None) -> None:
        self._error = self._error or error  # a fault of the sink's, told before, stands
        self.ended = True

    def came(self) -> None:
        """Tells whoever waits that something has come, once for all that came together."""
        if self._sink is not None and self._pieces:
            try:
                self._enough = not self._sink(self._all())
            except Exception as fault:  # told to whoever waits
                self._error, self._sink = fault, None
            else:
                if not self._enough and not self.ended:
                    return
                self._sink = None
                self._hold()
        self._wake()

    def _all(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        self._waiting = 0
        if self._held:
            self._let_on()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _hold(self) -> None:
        if not (self._held or self.ended):
            self._held = True
            self._source.pause()

    def _let_on(self) -> None:
        if self._held and not self.ended:
            self._source.resume()
        self._held = False

    def _wait(self) -> "asyncio.Future[None]":
        self._waiter = waiter = self._source.loop.create_future()
        return waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
