"""HTTP/1.1 as uvicorn parses it, with the deadlines and sizes that uvicorn does not know.

uvicorn waits for ever for the rest of a request, keeps headers of any size, and for a reader that
does not read. Here every phase of a connection has its end; a sweep over all connections, now and
then, holds them to it: up to a second early and never late, at the cost of no timer for a request.
"""

import asyncio
import math
import socket
import struct
from collections.abc import Callable
from typing import Any

from uvicorn.server import ServerState

from vlinders_gateway.bodies import GRAIN_SECONDS, WHOLE
from vlinders_gateway.coalescing import Coalescing
from vlinders_gateway.edge import Edge
from vlinders_gateway.hot import Hot, HotExchange
from vlinders_gateway.messages import Messages
from vlinders_gateway.open_connections import OpenConnections
from vlinders_gateway.refusals import Overloaded, RequestTimeout
from vlinders_kit.errors import AppError

HEAD_SECONDS = 10.0
"""For the head of a request, from its first byte, or from the connection's."""

LINGER_SECONDS = 10.0
"""For the rest of a body that was refused: an answer is lost to a client that is still writing."""

FAREWELL_SECONDS = 2.0
"""After a last answer, for the same reason."""

STALL_SECONDS = 60.0
"""For a client that does not read what is written to it."""

LEAST_READ_BYTES = 16 * 1024
"""What counts as reading: so much of what waits, in `STALL_SECONDS`."""

MOST_REFUSED_BYTES = 16 * 1024 * 1024
"""What is read of a body that was refused, so that the connection is good for another request.
What comes then is thrown away."""

MOST_DISCARDED = 64 * 1024 * 1024
"""What is thrown away of a connection. Then it is not read any more until its time is up."""

HIGH_WATER = 16 * 1024
"""Bytes that may wait for a slow reader before its answer is held up."""

_SWEEP_SECONDS = 0.75 * GRAIN_SECONDS
"""More often than it need be, since it may come late itself."""

_NO_LINGERING = struct.pack("ii", 1, 0)

Refuse = Callable[[AppError], bytes]
"""The whole HTTP answer, with `connection: close`, to a request that cannot be read."""


class EdgeProtocol(Messages):
    """A connection. Subclassed by `protocol` for what a process needs of it."""

    edge: Edge
    refuse: Refuse
    open_connections: OpenConnections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.set_write_buffer_limits(HIGH_WATER)
        self.sending = Coalescing(transport, self.loop)
        """The transport, for what is in one piece already."""
        super().connection_made(self.sending)  # type: ignore[arg-type]
        self._idle = False
        self._deadline = self.loop.time() + HEAD_SECONDS
        self._stalls_at = math.inf
        self._unread = 0
        self._over = False
        self._most_bytes = self._body_until = math.inf
        self._discarded = 0
        self._hot: HotExchange | None = None
        """What is being answered, if that is of a hot route."""
        self._before: Any = None
        """What was asked before what was asked last."""
        self._address = self.client[0] if self.client else ""
        if not self.open_connections.enter(self._address):
            self.refused(Overloaded())

    def connection_lost(self, exc: Exception | None) -> None:
        self.open_connections.leave(self._address)
        super().connection_lost(exc)
        for cycle, _ in self.pipeline:
            _abandon(cycle)
        if self._hot is not None:
            self._hot.gone()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._over:
            self._discard(data)
            return
        if self._idle:
            self._idle = False
            self._deadline = self.loop.time() + HEAD_SECONDS
        self.feed(data)
        if self._bytes > self._most_bytes and not self._in_head:
            self._over = True

    def on_message_begin(self) -> None:
        if self._upgrading:
            return
        self._begin_head()
        self._idle = False
        if self._deadline == math.inf:
            self._deadline = self.loop.time() + HEAD_SECONDS

    def on_headers_complete(self) -> None:
        if self._upgrading:
            return
        self._end_head()
        self._deadline = self._most_bytes = math.inf  # the body's is the exchange's to keep
        self._before = self.cycle
        hot = self.edge.hot_at(self.url, self.parser.get_method(), self.headers)
        if hot is None:
            self._body_until = self.loop.time() + self.edge.limits.seconds
            super().on_headers_complete()
        else:
            self._open_hot(hot)

    def on_body(self, body: bytes) -> None:
        self._count(body)
        if isinstance(self.cycle, HotExchange):
            self.cycle.feed(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
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
            self._linger(self.loop.time())
        elif not (self._in_head or self.pipeline):
            self._keep()
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def _linger(self, now: float) -> None:
        """What was asked is answered before its body has come: by refusing it, or it is late."""
        if now < self._body_until - GRAIN_SECONDS:
            self._deadline = min(now + LINGER_SECONDS, self._body_until)
            self._most_bytes = self._bytes + MOST_REFUSED_BYTES
        else:
            self._over = True
            self.transport.write_eof()
            self._deadline = now + FAREWELL_SECONDS

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
        self.cycle = exchange
        if self._before is None or self._before.response_complete:
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
            self._deadline = self._body_until = self.loop.time() + exchange.bodies.seconds
        exchange.start()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader(self.loop.time())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalls_at = math.inf
        if self._hot is not None and self._hot.on_resumed is not None:
            self._hot.on_resumed()

    def sweep(self, now: float) -> None:
        """Ends the connection if its time is up, or will be before the next sweep."""
        if self._stalls_at <= now:
            if self._unread - self.transport.get_write_buffer_size() < LEAST_READ_BYTES:
                self._reset()
            else:
                self._watch_reader(now)
        elif self.transport.is_closing():
            if self._stalls_at == math.inf:  # it closes when the rest of its answer is read
                self._watch_reader(now)
        elif self._deadline <= now + GRAIN_SECONDS:
            self._deadline = math.inf
            if self._in_head and not self._over:
                self.refused(RequestTimeout())
            elif self._hot is not None:
                self._hot.late()
            else:
                self.transport.close()

    def refused(self, error: AppError) -> None:
        """The last answer of this connection; what was asked whole before is answered first."""
        if self._over or self.transport.is_closing():
            return
        self._over = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                cycle.keep_alive = False
                return
            if self.pipeline:
                _abandon(self.pipeline.popleft()[0])
                self._before.keep_alive = False
                return
            cycle.disconnected = True  # the rest of its body will never come
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        if self._in_head or cycle is None or not cycle.response_complete:
            self.transport.write(type(self).refuse(error))
        self.transport.write_eof()
        self._deadline = self.loop.time() + FAREWELL_SECONDS
        if self._hot is not None:
            self._hot.gone()

    def _reset(self) -> None:
        """Ends the connection at once. By any other end the kernel would keep what it has, for a
        client that hears of the end only when it has read all of that."""
        own = self.transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
        self.transport.abort()

    def _watch_reader(self, now: float) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._stalls_at = now + STALL_SECONDS

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > MOST_DISCARDED:
            self.transport.pause_reading()


def _abandon(cycle: Any) -> None:
    """It waited for its turn, which does not come any more."""
    if isinstance(cycle, HotExchange):
        cycle.abandon()


def protocol(edge: Edge, refuse: Refuse, open_connections: OpenConnections) -> type[EdgeProtocol]:
    """The class of connections to `edge`, whose unreadable requests are answered by `refuse`."""
    members = {"edge": edge, "refuse": staticmethod(refuse), "open_connections": open_connections}
    return type("Connection", (EdgeProtocol,), members)


async def sweep(state: ServerState) -> None:
    """Holds all connections of a server to their deadlines, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        now = loop.time()
        connections: Any = list(state.connections)
        for connection in connections:
            connection.sweep(now)
