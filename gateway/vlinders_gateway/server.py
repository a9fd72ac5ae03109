"""The HTTP server of the process: started, drained and ended in order."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from datetime import timedelta

import uvicorn

from vlinders_gateway.dialects import CANONICAL
from vlinders_gateway.edge import Edge
from vlinders_gateway.exchange import Exchange
from vlinders_gateway.open_connections import OpenConnections
from vlinders_gateway.protocol import protocol, sweep
from vlinders_kit.errors import AppError

KEEP_ALIVE_SECONDS = 75
"""Longer than the load balancers in front keep an idle connection, so that they end it, not we."""

KERNEL_HOLDS = 32 * 1024
"""Bytes of answers that the kernel takes of us for a connection beyond what is under way on the
network, or else it takes megabytes for each client that does not read."""

_BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn's server, without its signals: the process has its own order of ending."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class PublicServer:
    """Serves `edge` on `listener` until `end`, then until what runs has ended."""

    def __init__(
        self,
        edge: Edge,
        listener: socket.socket,
        drain: timedelta,
        open_connections: OpenConnections,
    ) -> None:
        self._edge = edge
        self._listener = listener
        http = protocol(edge, self._refuse, open_connections)
        self._server = Server(_config(edge, http=http, drain=int(drain.total_seconds())))

    @property
    def up(self) -> asyncio.Event:
        """Set once it serves."""
        return self._server.up

    async def run(self) -> None:
        sweeping = asyncio.create_task(sweep(self._server.server_state), name="sweep")
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            sweeping.cancel()

    def end(self) -> None:
        """Nothing new is accepted; what runs has the drain time to end."""
        self._server.should_exit = True

    def _refuse(self, error: AppError) -> bytes:
        """The answer to what is no request: there is no path yet, so it is the canonical one's."""
        exchange = Exchange({}, CANONICAL, self._edge.limits)
        status, head, body = exchange.told(error)
        lines = [b"HTTP/1.1 %d \r\n" % status, b"connection: close\r\n"]
        lines += [b"%s: %s\r\n" % header for header in (*head, *exchange.headers())]
        return b"".join([*lines, b"\r\n", body])


def listen(
    host: str, port: int, *, shared: bool, silence: timedelta | None = None
) -> socket.socket:
    """A listening socket; with `shared`, the kernel spreads connections over all that listen.

    A client that gives no sign of life for as long as `silence` is taken to have vanished without
    a word, as one does whose network is gone; its connection is then broken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if silence is not None:  # what it accepts has these options as well
        seconds = max(1, int(silence.total_seconds()))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, seconds // 2))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, seconds // 6))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1_000 * seconds)
    # What it accepts has this as well.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_HOLDS)
    listener.bind((host, port))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _config(app: Edge, *, http: object, drain: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=http,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        log_level="critical",  # the edge has logged it
        server_header=False,
        proxy_headers=False,  # the edge reads them, and only of those it trusts
        backlog=_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=drain,
    )
