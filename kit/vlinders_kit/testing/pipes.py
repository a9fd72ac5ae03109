"""Pipes for tests: a serving end, and an exchange whose answer is awaited step by step."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from vlinders.api.v1.pipe_pb2 import PipeOpen
from vlinders.inference.v1 import generations_pb2
from vlinders_kit.errors import Failure
from vlinders_kit.pipe import Exchange, PipeExchange, PipeLost, PipeServer, Receiver
from vlinders_kit.rpc import Guard
from vlinders_kit.testing.callers import CALLER_KEY

INFERENCE = "vlinders.inference"
PIPE = f"/{generations_pb2.DESCRIPTOR.services_by_name['GenerationService'].full_name}/Pipe"


@asynccontextmanager
async def piped(handler: Callable[[Exchange], Awaitable[None]]) -> AsyncIterator[str]:
    """Inference, as far as a gateway's hot routes need it: where `handler` serves their pipes."""
    guard = Guard(INFERENCE, CALLER_KEY)
    pipes = PipeServer(handler, domain=INFERENCE).listen("127.0.0.1", 0, path=PIPE, guard=guard)
    running = asyncio.create_task(pipes.run())
    yield f"127.0.0.1:{pipes.port}"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class PipeFailed(Exception):
    """The other side ended the exchange with a failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class Awaited:
    """The receiver of an answer. `open` is a pipe's, or a pool's.

    `head` and `data` raise PipeFailed or PipeLost, after everything that came before the failure.
    """

    def __init__(
        self, open: Callable[[PipeOpen, Receiver], PipeExchange], request: PipeOpen
    ) -> None:
        self._content_type: str | None = None
        self._pieces: list[bytes] = []
        self._ended = False
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._exchange = open(request, self)

    @property
    def address(self) -> str:
        """Of the replica that serves it."""
        return self._exchange.replica.address

    async def head(self) -> str:
        """The media type of the answer."""
        while self._content_type is None:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise PipeLost
            await self._next()
        return self._content_type

    async def data(self) -> bytes:
        """All that has come since the call before; empty at the end of the answer."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            await self._next()
        data, self._pieces = b"".join(self._pieces), []
        self._exchange.took(len(data))
        return data

    async def whole(self) -> bytes:
        """The answer from its head to its end."""
        await self.head()
        pieces = []
        while piece := await self.data():
            pieces.append(piece)
        return b"".join(pieces)

    def cancel(self) -> None:
        """Wants no more: whoever waits for it gets PipeLost."""
        self._exchange.cancel()
        self.lose()

    def begin(self, content_type: str) -> None:
        self._content_type = content_type

    def take(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def end(self, failure: Failure | None) -> None:
        self._ended = True
        self._error = None if failure is None else PipeFailed(failure)
        self._news.set()

    def lose(self) -> None:
        self._error = PipeLost()
        self._news.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._news.set()

    def flush(self) -> None:
        self._news.set()

    async def _next(self) -> None:
        self._news.clear()
        await self._news.wait()
