"""HTTP/1.1 as uvicorn parses it, with the deadlines and sizes that uvicorn does not know.

uvicorn waits for ever for the rest of a request, keeps headers of any size, and for a reader that
does not read. Here every phase of a connection has its end; one sweep a second over all connections
holds them to it, which costs a request no timer of its own.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from vlinders_gateway.bodies import WHOLE
from vlinders_gateway.exchange import CONNECTION
from vlinders_gateway.refusals import HeadersTooLarge, MalformedRequest, RequestTimeout
from vlinders_kit.errors import AppError

HEAD_SECONDS = 10.0
"""For the head of a request, from its first byte, or from the connection's."""

LINGER_SECONDS = 10.0
"""For the rest of a body that was refused: an answer is lost to a client that is still writing."""

FAREWELL_SECONDS = 2.0
"""After a last answer, for the same reason."""

STALL_SECONDS = 60.0
"""For a client that does not read what is written to it."""

MOST_HEAD_BYTES = 32 * 1024
MOST_HEADERS = 100
_SWEEP_SECONDS = 1.0

Refuse = Callable[[AppError], bytes]
"""The whole HTTP answer, with `connection: close`, to a request that cannot be read."""


class Coalescing:
    """A transport that sends what is written in one turn of the loop as one piece.

    uvicorn writes head and body apart, and each write is a system call and a packet.
    """

    __slots__ = (
        "_loop",
        "_transport",
        "_written",
        "abort",
        "get_extra_info",
        "is_closing",
        "pause_reading",
        "resume_reading",
    )

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._written: list[bytes] = []
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        written, self._written = self._written, []
        if written and not self._transport.is_closing():
            self._transport.write(written[0] if len(written) == 1 else b"".join(written))


class EdgeProtocol(HttpToolsProtocol):
    """A connection. Subclassed by `protocol` for what a process needs of it."""

    refuse: Refuse

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Coalescing(transport, self.loop))  # type: ignore[arg-type]
        self._in_head = True
        self._head_bytes = 0
        self._idle = False
        self._deadline = self.loop.time() + HEAD_SECONDS
        self._stalls_at = math.inf
        self._over = False
        self._when_gone: Callable[[], None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        told, self._when_gone = self._when_gone, None
        if told is not None:
            told()

    def when_gone(self, told: Callable[[], None]) -> None:
        """Calls `told` if the client leaves before the answer that is being given has ended."""
        if self.cycle.disconnected:
            told()
        else:
            self._when_gone = told

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._over:
            return
        if self._idle:
            self._idle = False
            self._deadline = self.loop.time() + HEAD_SECONDS
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # nothing is offered to upgrade to: it is a request like any other
        except httptools.HttpParserError:
            self._end_with(MalformedRequest(what="it is no HTTP/1.1"))
            return
        if self._in_head and self._head_bytes > MOST_HEAD_BYTES:
            self._end_with(HeadersTooLarge())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._idle = False
        self._deadline = self.loop.time() + HEAD_SECONDS

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MOST_HEAD_BYTES or len(self.headers) > MOST_HEADERS:
            self._end_with(HeadersTooLarge())
            raise ValueError("headers too large")  # stops the parser
        self._in_head = False
        self._head_bytes = 0
        self._deadline = math.inf  # the body's is the exchange's to keep
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.scope[WHOLE] = True  # type: ignore[literal-required]
        if self.cycle is not None and self.cycle.response_complete:
            self._deadline = math.inf
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._when_gone = None
        super().on_response_complete()
        if WHOLE not in self.scope:
            self._deadline = self.loop.time() + LINGER_SECONDS
        else:
            self._idle = not self._in_head

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalls_at = self.loop.time() + STALL_SECONDS

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalls_at = math.inf

    def sweep(self, now: float) -> None:
        """Ends the connection if its time is up."""
        if self._stalls_at <= now:
            self.transport.abort()
        elif self._deadline <= now:
            self._deadline = math.inf
            if self._in_head and self._head_bytes and not self._over:
                self._end_with(RequestTimeout())
            else:
                self.transport.close()

    def _end_with(self, error: AppError) -> None:
        """The last answer of this connection; what was asked whole before is answered first."""
        if self._over or self.transport.is_closing():
            return
        self._over = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                cycle.keep_alive = False
                return
            cycle.disconnected = True  # the rest of its body will never come
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        self.transport.write(type(self).refuse(error))
        self.transport.write_eof()
        self._deadline = self.loop.time() + FAREWELL_SECONDS


def protocol(refuse: Refuse) -> type[EdgeProtocol]:
    """The class of connections whose unreadable requests are answered by `refuse`."""
    return type("Connection", (EdgeProtocol,), {"refuse": staticmethod(refuse)})


async def sweep(state: ServerState) -> None:
    """Holds all connections of a server to their deadlines, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        now = loop.time()
        connections: Any = list(state.connections)
        for connection in connections:
            connection.sweep(now)
