"""Hot routes: requests that are answered on their connection, without a task or a framework.

Where nothing has to be waited for, a request is admitted, checked and passed on in the very call
that read its last byte, and its answer is written in the one that brought it: that costs a quarter
of what the same costs through ASGI.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from vlinders_gateway import bodies
from vlinders_gateway.dialects import Dialect
from vlinders_gateway.exchange import JSON, Exchange, Header, Scope
from vlinders_gateway.operations import Operation
from vlinders_gateway.principals import Principal
from vlinders_gateway.refusals import BodyTooLarge, InternalFault, Overloaded, RequestTimeout
from vlinders_kit import logs
from vlinders_kit.errors import AppError, Failure

if TYPE_CHECKING:
    from vlinders_gateway.edge import Edge
    from vlinders_gateway.protocol import EdgeProtocol

log = logs.get(__name__)

_UNADMITTED = 64 * 1024
"""Bytes of a body that are read before its sender is admitted."""

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus
}


Step = Callable[[], Coroutine[Any, Any, None]]
"""What is awaited before a request goes on. It may never be begun: its client may leave before."""


class App(Protocol):
    """What answers a hot route. What it raises is answered in the dialect's words."""

    def admit(self, exchange: "HotExchange") -> Step | None:
        """Finds out who asks, before the body is read; the step that has to be awaited, if any."""

    def serve(self, exchange: "HotExchange", body: bytes) -> None:
        """Begins to answer."""


@dataclass(frozen=True)
class Hot:
    """A route that is dispatched before any framework."""

    app: App
    operation: Operation
    dialect: Dialect
    verb: str


class _NobodyWaits:
    """What uvicorn sets when there is news for whoever awaits the request's body."""

    def set(self) -> None:
        pass


class HotExchange(Exchange):
    """One request of a hot route, on the connection that it came by.

    It stands where uvicorn keeps its own cycle of request and response, and has what the connection
    looks at: from `body` on below. The app answers by `answer`, `refuse`, or `begin`, `write` and
    `end`; none of them waits. What is written leaves with `flush`, or the end. While `paused` the
    client does not take it.
    """

    __slots__ = (
        "_admitted",
        "_admitting",
        "_app",
        "_chunked",
        "_connection",
        "_edge",
        "_expects",
        "_held",
        "_turn",
        "_unsent",
        "body",
        "disconnected",
        "keep_alive",
        "message_event",
        "more_body",
        "on_left",
        "on_resumed",
        "principal",
        "response_complete",
        "response_started",
    )

    def __init__(
        self, hot: Hot, scope: Scope, edge: "Edge", connection: "EdgeProtocol", *, keep_alive: bool
    ) -> None:
        super().__init__(scope, hot.dialect, edge.limits)
        self.operation = hot.operation
        self.principal: Principal | None = None
        """Whoever was admitted."""
        self.on_left: Callable[[], None] | None = None
        """Called if the client leaves before its answer has ended."""
        self.on_resumed: Callable[[], None] | None = None
        """Called when the client takes again what is written."""
        self._app = hot.app
        self._edge = edge
        self._connection = connection
        self._admitted = False
        self._admitting: asyncio.Task[None] | None = None
        self._chunked = False
        self._expects = connection.expect_100_continue
        self._held = 0
        self._turn = False
        self._unsent: list[bytes] = []
        self.body = bytearray()
        self.more_body = True
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.message_event = _NOBODY

    @property
    def paused(self) -> bool:
        return self._connection.flow.write_paused

    def start(self) -> None:
        """Its turn has come: what was asked before on this connection is answered."""
        self._turn = True
        try:
            self._edge.enter(self)
            if max(self.content_length or 0, self._held) > self.bodies.most_bytes:
                raise BodyTooLarge(most_bytes=self.bodies.most_bytes)
            waiting = self._app.admit(self)
        except Exception as error:
            self.fail(error)
            return
        if waiting is not None:
            self._admitting = self._connection.loop.create_task(self._wait_for(waiting))
            return
        self._go_on()

    def feed(self, piece: bytes) -> None:
        """More of the body."""
        if self.response_complete:
            return
        limits = self.bodies
        self._held += len(piece)
        limits.room -= len(piece)
        self.body += piece
        if not self._turn:
            return  # nothing more is read of the connection, and what is before is answered first
        if self._held > limits.most_bytes:
            self.fail(BodyTooLarge(most_bytes=limits.most_bytes))
        elif limits.room < 0:
            self.fail(Overloaded())
        elif self._held > _UNADMITTED and not self._admitted:
            self._connection.flow.pause_reading()

    def fed(self) -> None:
        """The body is whole."""
        self.more_body = False
        if self._admitted and not self.response_complete:
            self._serve()

    def late(self) -> None:
        """The body has not come in time."""
        self.fail(RequestTimeout())

    def begin(self, status: int, content_type: bytes) -> None:
        """The head of an answer of unknown length."""
        headers = [(b"content-type", content_type), (b"cache-control", b"no-cache")]
        self._chunked = self.scope["http_version"] != "1.0"
        if self._chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        else:
            self.keep_alive = False  # the end of the connection is the end of the answer
        self._unsent.append(self._head(status, headers))

    def write(self, data: bytes) -> None:
        """More of the answer."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._unsent.append(data)

    def flush(self) -> None:
        """Sends what is written: in one piece, as each is a system call and a packet."""
        if self._unsent:
            self.response_started = True
            unsent, self._unsent = self._unsent, []
            self._connection.sending.send(b"".join(unsent))

    def end(self) -> None:
        """That was all of the answer."""
        if self._chunked:
            self._unsent.append(b"0\r\n\r\n")
        self.flush()
        self._over()

    def answer(self, status: int, body: bytes) -> None:
        """The whole answer, as JSON."""
        self._whole(status, [(b"content-type", JSON), (b"content-length", b"%d" % len(body))], body)

    def refuse(self, error: AppError | grpc.aio.AioRpcError | Failure) -> None:
        """Answers with a failure, in the dialect's words."""
        self._whole(*self.told(error))

    def fail(self, error: Exception) -> None:
        """Answers with what went wrong; what is a fault of ours is told to the log.

        Of an answer that has begun to leave, all that can be told is that it breaks off.
        """
        if not isinstance(error, AppError | grpc.aio.AioRpcError):
            log.error("request_failed", request_id=self.id, exc_info=error)
            error = InternalFault()
        if self.response_complete:
            return
        if self.response_started:
            log.error("answer_cut_short", request_id=self.id, exc_info=error)
            self._connection.transport.abort()
        else:
            self._unsent.clear()
            self.refuse(error)

    def gone(self) -> None:
        """The connection is lost."""
        if self.response_complete:
            return
        self.left = True
        self.response_complete = True
        told, self.on_left = self.on_left, None
        self._close()
        if told is not None:
            told()

    def abandon(self) -> None:
        """Its turn will not come."""
        self.bodies.room += self._held
        self._held = 0

    def _go_on(self) -> None:
        """The sender is admitted."""
        self._admitted = True
        if not self.more_body:
            self._serve()
            return
        if self._expects:
            self._connection.sending.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._connection.flow.resume_reading()

    def _serve(self) -> None:
        body, self.body = bytes(self.body), bytearray()
        if bodies.is_long(body):
            step = partial(self._scanned, body)
            self._admitting = self._connection.loop.create_task(self._wait_for(step))
            return
        try:
            bodies.check_shape(body, self.bodies)
            self._app.serve(self, body)
        except Exception as error:
            self.fail(error)

    async def _wait_for(self, step: Step) -> None:
        """Does what has to be awaited before the request goes on; a client that leaves ends it."""
        try:
            await step()
        except Exception as error:
            self.fail(error)
            return
        self._admitting = None
        if not self._admitted:
            self._go_on()

    async def _scanned(self, body: bytes) -> None:
        await asyncio.to_thread(bodies.check_shape, body, self.bodies)
        self._app.serve(self, body)

    def _whole(self, status: int, headers: Iterable[Header], body: bytes) -> None:
        self._connection.sending.send(self._head(status, headers) + body)
        self._over()

    def _head(self, status: int, headers: Iterable[Header]) -> bytes:
        self.status = status
        lines = [_STATUS_LINES[status]]
        lines += [name + b": " + value for name, value in headers]
        lines += [name + b": " + value for name, value in self.headers()]
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        return b"\r\n".join(lines)

    def _over(self) -> None:
        self.response_complete = True
        self._close()
        if not self.keep_alive:
            self._connection.transport.close()
        self._connection.on_response_complete()

    def _close(self) -> None:
        self.bodies.room += self._held
        self.on_left = self.on_resumed = None
        if self._admitting is not None:
            self._admitting.cancel()
            self._admitting = None
        self._edge.leave(self)


_NOBODY = _NobodyWaits()
