"""The serving end of a pipe."""

import asyncio
import math
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.api.v1.pipe_pb2 import PipeFrame, PipeFrames, PipeOpen
from vlinders_kit import logs
from vlinders_kit.alarms import Alarm
from vlinders_kit.errors import (
    AppError,
    DeadlineExceeded,
    NotFound,
    ResourceExhausted,
    Unavailable,
    status_of,
)
from vlinders_kit.pipe import frames
from vlinders_kit.pipe.calls import FAREWELL_SECONDS, Answer, Answered, Metadata
from vlinders_kit.pipe.queue import FrameQueue
from vlinders_kit.pipe.wire import Talker
from vlinders_kit.pressure import Pressure
from vlinders_kit.rpc import Guard, known
from vlinders_kit.tls import Tls

log = logs.get(__name__)


class TooManyRequestsInFlight(ResourceExhausted):
    """This replica has as many requests in flight as it takes."""

    retry_after = timedelta(seconds=1)


class RequestTookTooLong(DeadlineExceeded):
    """The request did not end within its deadline."""


class ReplicaStops(Unavailable):
    """The replica that served the request had to stop before it was done."""


class NoSuchCall(NotFound):
    """There is no such call at this port."""


_BACKLOG = 128

DRAIN_SECONDS = 25.0
"""How long exchanges may run on in a process that is to end."""

SETTLE_SECONDS = 4.0
"""How long those that are cancelled then may take to settle."""


class Exchange:
    """One request that is being served, and the way its answer goes.

    When the client leaves, its gateway is lost, the deadline passes or the process has to end,
    `cancelled` turns true and what is sent from then on is dropped: the handler goes on, to stop
    the work and to settle it.
    """

    def __init__(self, opened: PipeOpen, number: int, out: FrameQueue, until: float) -> None:
        self.open = opened
        self.cancelled = False
        self.until = until
        """Its deadline, by the loop's clock."""
        self._number = number
        self._out = out
        self._window = opened.window
        self._wake: asyncio.Future[None] | None = None
        self._cancelled: asyncio.Future[None] | None = None
        self._cut: AppError | None = None

    @property
    def caller(self) -> Caller:
        """Who asks: believed because the pipe's own caller may open exchanges for anybody."""
        return Caller.FromString(self.open.caller)

    def head(self, content_type: str) -> None:
        """Begins the answer."""
        self._put(frames.head(self._number, content_type))

    def offer(self, data: bytes) -> bool:
        """Sends a piece of the answer at once, unless the client cannot take it; whether it did."""
        if self.cancelled or not data:
            return True
        if len(data) > self._window:
            return False
        self._window -= len(data)
        self._out.put(frames.data(self._number, data))
        return True

    async def send(self, data: bytes) -> None:
        """Sends a piece of the answer; waits while the client cannot take it."""
        while data and not self.cancelled:
            if self._window <= 0:
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
                continue
            piece = data if len(data) <= self._window else data[: self._window]
            self._window -= len(piece)
            self._put(frames.data(self._number, piece))
            if len(piece) == len(data):
                return
            data = data[len(piece) :]

    async def until_cancelled(self) -> None:
        """Returns when nobody waits for the answer any more."""
        if not self.cancelled:
            if self._cancelled is None:
                self._cancelled = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._cancelled)

    def grant(self, size: int) -> None:
        self._window += size
        _set(self._wake)

    def cancel(self, cut: AppError | None = None) -> None:
        """Nobody waits any more; with `cut`, a client that is still there is told why."""
        self.cancelled = True
        self._cut = self._cut or cut
        _set(self._wake)
        _set(self._cancelled)

    def end(self, domain: str, error: AppError | None) -> None:
        error = error or self._cut
        status = None if error is None else status_of(error, domain)
        self._out.put(frames.end(self._number, status))

    def _put(self, frame: bytes) -> None:
        if not self.cancelled:
            self._out.put(frame)


class PipeServer:
    """Serves every pipe of this process with one `handler`, awaited for each exchange.

    The handler raises an AppError to refuse or to break off, and returns when it has settled.
    At most `most` exchanges run at once, fewer while the process is late and its `pressure` runs;
    more are refused at once.
    """

    def __init__(
        self, handler: Callable[[Exchange], Awaitable[None]], *, domain: str, most: int = 4096
    ) -> None:
        self._handler = handler
        self._domain = domain
        self.pressure = Pressure(most, lambda: len(self._running))
        self._loop = asyncio.get_running_loop()
        self._running: dict[Exchange, asyncio.Task[None]] = {}
        self._deadlines = Alarm(self._cut_late)
        self.conversations: set[Conversation] = set()
        self._draining = False

    def listen(
        self, host: str, port: int, *, path: str, guard: Guard, tls: Tls | None = None
    ) -> "Listening":
        """Takes calls of the RPC `path` at a port, from those whom its policy lets in."""

        def answer(asked: str, metadata: Metadata, wire: Answered) -> Talker:
            if asked != path:
                raise NoSuchCall
            guard.admit(path, metadata)
            return self.accept(wire)

        return Listening(host, port, answer, tls)

    def accept(self, wire: Answered) -> "Conversation":
        """Serves the pipe on a connection."""
        conversation = Conversation(self, wire)
        self.conversations.add(conversation)
        if self._draining:
            conversation.out.put(frames.drain())
        return conversation

    async def drain(self, *, within: float = DRAIN_SECONDS) -> None:
        """Sends new exchanges elsewhere, and returns when those that run have ended and settled.

        Those that still run after `within` seconds are cancelled; their clients are told so.
        """
        self._draining = True
        for conversation in self.conversations:
            conversation.out.put(frames.drain())
        until = time.monotonic() + within
        while self._running and (left := until - time.monotonic()) > 0:
            await asyncio.wait(self._running.values(), timeout=left)
        for exchange in self._running:
            exchange.cancel(ReplicaStops())
        if self._running:
            await asyncio.wait(self._running.values(), timeout=SETTLE_SECONDS)
        ending = [conversation.ended for conversation in self.conversations]
        for conversation in list(self.conversations):
            conversation.finish()
        if ending:
            await asyncio.wait(ending, timeout=FAREWELL_SECONDS)

    def open(self, frame: PipeFrame, exchanges: dict[int, Exchange], out: FrameQueue) -> None:
        """Begins to serve an exchange of a conversation."""
        if len(self._running) >= self.pressure.most:
            status = status_of(TooManyRequestsInFlight(), self._domain)
            out.put(frames.end(frame.exchange, status))
            return
        opened = frame.open
        deadline_ms = opened.deadline_ms
        until = self._loop.time() + deadline_ms / 1000 if deadline_ms else math.inf
        exchange = exchanges[frame.exchange] = Exchange(opened, frame.exchange, out, until)
        self._deadlines.by(until)
        # By the loop: asyncio.create_task makes a system call to find it, for each request.
        serving = self._loop.create_task(self._run(exchange, exchanges, frame.exchange))
        self._running[exchange] = serving

    async def _run(self, exchange: Exchange, exchanges: dict[int, Exchange], number: int) -> None:
        try:
            await self._handler(exchange)
        except Exception as error:  # told to the client; nothing else waits for it
            if not isinstance(error, AppError):
                log.error("exchange_failed", operation=exchange.open.operation, exc_info=error)
            exchange.end(self._domain, known(error))
        else:
            exchange.end(self._domain, None)
        finally:
            del self._running[exchange]
            exchanges.pop(number, None)

    def _cut_late(self, now: float) -> float:
        """Cancels what is past its deadline; answers when the next deadline is."""
        next_at = math.inf
        for exchange in self._running:
            if exchange.until <= now:
                exchange.cancel(RequestTookTooLong())
            else:
                next_at = min(next_at, exchange.until)
        return next_at


class Conversation:
    """A gateway's end of the line: one connection, and all that is asked on it."""

    def __init__(self, server: PipeServer, wire: Answered) -> None:
        self.out = FrameQueue(wire.send)
        self._server = server
        self._wire = wire
        self._exchanges: dict[int, Exchange] = {}
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is over."""

    def message(self, body: bytes) -> None:
        for frame in PipeFrames.FromString(body).frames:
            kind = frame.WhichOneof("kind")
            if kind == "open":
                self._server.open(frame, self._exchanges, self.out)
            elif (exchange := self._exchanges.get(frame.exchange)) is None:
                continue  # it has ended meanwhile
            elif kind == "window":
                exchange.grant(frame.window)
            elif kind == "cancel":
                exchange.cancel()

    def lost(self, why: str) -> None:
        self._server.conversations.discard(self)
        self.out.close()
        _set(self.ended)
        for exchange in list(self._exchanges.values()):
            exchange.cancel()

    def finish(self) -> None:
        """Ends it in order, when nothing is asked any more."""
        self.out.flush()
        self._wire.finish()


class Listening:
    """A port at which pipes are served: open from the beginning, answering while `run` runs."""

    def __init__(self, host: str, port: int, answer: Answer, tls: Tls | None) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._answer = answer
        self._tls = tls

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    async def run(self) -> None:
        server = await asyncio.get_running_loop().create_server(
            lambda: Answered(self._answer),
            sock=self._socket,
            ssl=None if self._tls is None else self._tls.for_listener(),
        )
        try:
            await asyncio.get_running_loop().create_future()  # until cancelled
        finally:
            server.close()


def _set(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
