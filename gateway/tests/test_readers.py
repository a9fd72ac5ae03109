"""Clients that read slowly, or not at all: how much is kept for one, and when it has left."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from vlinders_gateway import protocol
from vlinders_gateway.dialects import CANONICAL
from vlinders_gateway.exchange import EVENTS
from vlinders_gateway.hot import HotExchange
from vlinders_gateway.operations import named
from vlinders_gateway.testing import Running

pytestmark = pytest.mark.anyio

CHAT = named("CreateChatCompletion")
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
PIECE = 16 * 1024
_ESTABLISHED = 1


class Endless:
    """Answers a hot route with as much as its reader takes, and notes how much that was."""

    def __init__(self) -> None:
        self.written = 0
        self.paused = asyncio.Event()
        self.left = asyncio.Event()

    def admit(self, exchange: HotExchange) -> None:
        return None

    def serve(self, exchange: HotExchange, body: bytes) -> None:
        exchange.on_left = self.left.set
        exchange.on_resumed = lambda: self._go_on(exchange)
        exchange.begin(200, EVENTS)
        self._go_on(exchange)

    def _go_on(self, exchange: HotExchange) -> None:
        """All in one turn of the loop: what it is told of its reader must be true at once."""
        while not exchange.paused and self.written < 64 * 1024 * 1024:
            exchange.write(b"x" * PIECE)
            exchange.flush()
            self.written += PIECE
        self.paused.set()


@pytest.fixture
def endless(running: Running) -> Endless:
    """What answers the hot route here."""
    endless = Endless()
    running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, endless)
    return endless


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stalls for a second has left."""
    monkeypatch.setattr(protocol, "STALL_SECONDS", 1.0)


@contextmanager
def crawler(running: Running) -> Iterator[socket.socket]:
    """A client with next to no room of its own."""
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        peer.connect(("127.0.0.1", running.port))
        peer.setblocking(False)
        peer.sendall(POST)
        yield peer


async def test_little_is_taken_for_one_that_does_not_read(
    running: Running, endless: Endless
) -> None:
    with crawler(running):
        await endless.paused.wait()
        await asyncio.sleep(0)

        assert endless.written <= 160 * 1024


@pytest.mark.usefixtures("impatient")
async def test_one_that_reads_a_little_is_not_taken_for_gone(
    running: Running, endless: Endless
) -> None:
    """However little: what the kernel keeps back must not hide that something is read."""
    loop = asyncio.get_running_loop()
    with crawler(running) as peer:
        read, until = 0, loop.time() + 3.5
        while loop.time() < until:
            read += len(await loop.sock_recv(peer, 4_096))
            await asyncio.sleep(0.1)

        assert not endless.left.is_set()
    async with asyncio.timeout(10):
        await endless.left.wait()


@pytest.mark.usefixtures("impatient")
async def test_one_that_reads_next_to_nothing_has_left(running: Running, endless: Endless) -> None:
    loop = asyncio.get_running_loop()
    with crawler(running) as peer:
        async with asyncio.timeout(20):
            with suppress(ConnectionResetError):
                while not endless.left.is_set():
                    await loop.sock_recv(peer, 1)
                    await asyncio.sleep(0.05)
            await endless.left.wait()
            while _state(peer) == _ESTABLISHED:  # it hears of it without reading on
                await asyncio.sleep(0.05)


def _state(peer: socket.socket) -> int:
    """The kernel's state of the connection: the first byte of TCP_INFO."""
    return peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
