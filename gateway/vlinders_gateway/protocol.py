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
from vlinders_gateway.edge import Edge
from vlinders_gateway.hot import Hot, HotExchange
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

    edge: Edge
    refuse: Refuse

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Coalescing(transport, self.loop))  # type: ignore[arg-type]
        self._in_head = True
        self._head_bytes = 0
        self._idle = False
        self._deadline = self.loop.time() + HEAD_SECONDS
        self._stalls_at = math.inf
        self._over = False
        self._hot: HotExchange | None = None
        """What is being answered, if that is of a hot route."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._hot is not None:
            self._hot.gone()

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
        hot = self.edge.hot_at(self.url, self.parser.get_method())
        if hot is None:
            super().on_headers_complete()
        else:
            self._open_hot(hot)

    def on_body(self, body: bytes) -> None:
        if isinstance(self.cycle, HotExchange):
            self.cycle.feed(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self.scope[WHOLE] = True  # type: ignore[literal-required]
        self._deadline = math.inf
        if self.cycle is not None and self.cycle.response_complete:
            self._keep()
        if isinstance(self.cycle, HotExchange):
            self.cycle.fed()
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, but that the sweep ends connections that are kept for nothing."""
        self._hot = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if WHOLE not in self.scope:
            self._deadline = self.loop.time() + LINGER_SECONDS
        elif not (self._in_head or self.pipeline):
            self._keep()
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def _keep(self) -> None:
        """Nothing is being asked or answered."""
        self._idle = True
        self._deadline = self.loop.time() + self.timeout_keep_alive

    def _open_hot(self, hot: Hot) -> None:
        """As uvicorn begins a cycle, for a route that is answered without it."""
        version = self.parser.get_http_version()
        scope: Any = self.scope
        scope["method"] = hot.verb
        scope["http_version"] = version
        kept = version != "1.0" and self.parser.should_keep_alive()
        exchange: Any = HotExchange(hot, scope, self.edge, self, keep_alive=kept)
        before, self.cycle = self.cycle, exchange
        if before is None or before.response_complete:
            self._start_hot(exchange)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, HotExchange):
            self._start_hot(cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def _start_hot(self, exchange: HotExchange) -> None:
        self._hot = exchange
        if exchange.more_body:
            self._deadline = self.loop.time() + exchange.bodies.seconds
        exchange.start()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalls_at = self.loop.time() + STALL_SECONDS

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalls_at = math.inf
        if self._hot is not None and self._hot.on_resumed is not None:
            self._hot.on_resumed()

    def sweep(self, now: float) -> None:
        """Ends the connection if its time is up."""
        if self._stalls_at <= now:
            self.transport.abort()
        elif self._deadline <= now:
            self._deadline = math.inf
            if self._in_head and self._head_bytes and not self._over:
                self._end_with(RequestTimeout())
            elif self._hot is not None:
                self._hot.late()
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
        if self._hot is not None:
            self._hot.gone()


def protocol(edge: Edge, refuse: Refuse) -> type[EdgeProtocol]:
    """The class of connections to `edge`, whose unreadable requests are answered by `refuse`."""
    return type("Connection", (EdgeProtocol,), {"edge": edge, "refuse": staticmethod(refuse)})


async def sweep(state: ServerState) -> None:
    """Holds all connections of a server to their deadlines, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        now = loop.time()
        connections: Any = list(state.connections)
        for connection in connections:
            connection.sweep(now)
