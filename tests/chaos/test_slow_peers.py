"""Clients that send next to nothing, or nothing: each has its end, and costs the others nothing."""

import asyncio
import contextlib
import socket
import time

import pytest

from tests.chaos.load import Load
from tests.chaos.scale import LONG, scaled
from tests.chaos.stack import Chaos
from tests.chaos.watching import Watched
from tests.platform import User
from vlinders_kit.testing.figures import Figure

pytestmark = pytest.mark.anyio

SENDERS = scaled(50, 1_000)
DRIP_SECONDS = 10.0
HEAD_SECONDS, BODY_SECONDS = 15.0, 62.0
"""When the last of them must be gone; bodies have 60 s, and a second's grain."""

IDLE = scaled(300, 2_000)


class Peers:
    """Connections to the stack, made by hand."""

    def __init__(self, chaos: Chaos) -> None:
        self._host, _, port = chaos.stack.url.removeprefix("http://").partition(":")
        self._port = int(port)
        self.loop = asyncio.get_running_loop()

    async def connect(self) -> socket.socket:
        peer = socket.socket()
        peer.setblocking(False)
        await self.loop.sock_connect(peer, (self._host, self._port))
        return peer

    async def drip(self, head: bytes) -> float:
        """Sends `head` and then a byte now and then; seconds until the gateway closes."""
        peer = await self.connect()
        began = time.monotonic()
        try:
            await self.loop.sock_sendall(peer, head)
            closed = asyncio.create_task(self._closed(peer))
            while not closed.done():
                await asyncio.wait([closed], timeout=DRIP_SECONDS)
                if not closed.done():
                    await self.loop.sock_sendall(peer, b"x")
        except ConnectionError:
            pass
        finally:
            peer.close()
        return time.monotonic() - began

    async def _closed(self, peer: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            while await self.loop.sock_recv(peer, 65_536):
                pass


@pytest.mark.parametrize("where", ["head", *(["body"] if LONG else [])])
async def test_who_sends_a_byte_now_and_then_is_closed_in_time(
    chaos: Chaos, user: User, figure: Figure, where: str
) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
    key = (await user.key())["key"]
    if where == "body":
        head += b"authorization: Bearer %s\r\ncontent-length: 99\r\n\r\n" % key.encode()
    must = HEAD_SECONDS if where == "head" else BODY_SECONDS

    peers = Peers(chaos)
    async with Load(chaos, user, streams=2, json=2, max_tokens=10) as load:
        took = await asyncio.gather(*(peers.drip(head) for _ in range(SENDERS)))

    figure(
        f"sender of a byte in 10 s, in the {where}: the last is closed after",
        max(took),
        "s",
        must=f"≤ {15 if where == 'head' else 60} s",
        condition=f"{SENDERS} of them",
    )
    assert max(took) <= must
    assert {each.outcome for each in load.operations} == {"ok"}


async def test_idle_connections_are_kept_and_hurt_nobody(
    chaos: Chaos, user: User, figure: Figure
) -> None:
    peers = Peers(chaos)
    pids = chaos.pids("gateway")
    connections = []
    try:
        with Watched(pids) as watched:
            for _ in range(IDLE):
                peer = await peers.connect()
                connections.append(peer)
                await peers.loop.sock_sendall(peer, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            for peer in connections:
                assert (await peers.loop.sock_recv(peer, 4_096)).startswith(b"HTTP/1.1 200")
        async with Load(chaos, user, streams=2, json=2, max_tokens=10) as load:
            await load.until(lambda each: each.outcome == "ok", times=20)
        await peers.loop.sock_sendall(connections[0], b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await peers.loop.sock_recv(connections[0], 4_096)).startswith(b"HTTP/1.1 200")
    finally:
        for peer in connections:
            peer.close()
    figure(
        "idle connection, memory", watched.total / IDLE / 1024, "KB", condition=f"{IDLE} of them"
    )
    assert {each.outcome for each in load.operations} == {"ok"}
