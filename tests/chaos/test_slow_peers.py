"""Clients that send or read next to nothing: each has its end, and costs the others nothing."""

import asyncio
import contextlib
import json
import socket
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import pytest

from tests.chaos.faults import kill
from tests.chaos.fleet import outstanding
from tests.chaos.load import Load, Operation
from tests.chaos.oracle import settle
from tests.chaos.scale import LONG, scaled
from tests.chaos.stack import NUMBERED, Chaos
from tests.chaos.watching import Watched
from tests.platform import User, chat, eventually
from tests.upstreams import Asked, Upstream
from vlinders_kit.testing.figures import Figure

pytestmark = pytest.mark.anyio

SENDERS = scaled(50, 1_000)
DRIP_SECONDS = 10.0
HEAD_SECONDS, BODY_SECONDS = 15.0, 60.0
"""When the last of them must be gone."""

READERS = scaled(50, 500)
MOST_BUFFERED_KB = 256
TLS_STATE_KB = 31
"""What OpenSSL keeps of a client's connection that has nothing of an answer in it: no buffer."""

CUT_SECONDS = 75.0
"""60 s from when all that there is room for is full."""
QUIET_SECONDS = scaled(2.0, 15.0)
"""How long the others are looked at, without slow readers and beside them."""

IDLE = scaled(300, 2_000)

_ESTABLISHED = 1  # of the kernel's states of a TCP connection, the first byte of TCP_INFO

WORD = "x" * 4_000
WORDS = 4_000
"""Of an answer: 16 MB, more than all that is between an engine and its client can hold, kernel and
all."""


class Peers:
    """Connections to the stack, made by hand."""

    def __init__(self, chaos: Chaos) -> None:
        self._host, _, port = chaos.stack.url.removeprefix("http://").partition(":")
        self._port = int(port)
        self.loop = asyncio.get_running_loop()

    async def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        peer = socket.socket()
        peer.setblocking(False)
        if receive_buffer is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
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

    async def crawl(self, request: bytes, *, reads: bool) -> float:
        """Reads a byte of the answer in a second, or nothing; seconds until the gateway closes."""
        peer = await self.connect(receive_buffer=4_096)
        began = time.monotonic()
        try:
            await self.loop.sock_sendall(peer, request)
            with contextlib.suppress(ConnectionError):
                await self.loop.sock_recv(peer, 1)
                while not _is_cut(peer):
                    await asyncio.sleep(1)
                    if reads:
                        await self.loop.sock_recv(peer, 1)
            return time.monotonic() - began
        finally:
            peer.close()

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
        must=f"≤ {must:.0f} s",
        condition=f"{SENDERS} of them",
    )
    assert max(took) <= must
    assert {each.outcome for each in load.operations} == {"ok"}


def _is_cut(peer: socket.socket) -> bool:
    """Whether the other side has reset the connection; what it sent before need not be read."""
    state: int = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state != _ESTABLISHED


@contextlib.asynccontextmanager
async def crawling(
    chaos: Chaos, key: str, bodies: Sequence[dict[str, Any]]
) -> AsyncIterator[list["asyncio.Task[float]"]]:
    """Readers of a byte a second, and a few of nothing; each tells when it was cut."""
    peers = Peers(chaos)
    readers = [
        asyncio.create_task(peers.crawl(_request(key, body), reads=bool(number % 10)))
        for number, body in enumerate(bodies)
    ]
    try:
        yield readers
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


def _request(key: str, body: dict[str, Any]) -> bytes:
    text = json.dumps(body).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n"
        b"content-length: %d\r\n\r\n%s" % (key.encode(), len(text), text)
    )


class ByProvider:
    """The answers to slow readers are a provider's."""

    parts = ("gateway", "inference")

    def __init__(self, provider: Upstream, model: str) -> None:
        self._upstream = f"{model}-2026"
        self._provider = provider
        self._before = len(provider.asked[self._upstream])
        self.bodies = [chat(model, stream=True, max_tokens=WORDS)] * READERS
        provider.plays(self._upstream, words=[WORD] * WORDS)

    @property
    def said(self) -> list[int]:
        """Words of each answer that has begun."""
        return [each.said for each in self._asked]

    async def ended(self) -> bool:
        """Whether the provider was told of each that nobody waits for it any more."""
        return all(each.ended.is_set() for each in self._asked)

    def close(self) -> None:
        del self._provider.scripts[self._upstream]

    @property
    def _asked(self) -> Sequence[Asked]:
        return self._provider.asked[self._upstream][self._before :]


class ByWorkers:
    """They are the engines' of own workers, and the agents' memory counts as well."""

    parts = ("gateway", "inference", "worker")

    def __init__(self, chaos: Chaos) -> None:
        self._chaos = chaos
        self._names = [uuid4().hex for _ in range(READERS)]
        told = {"counts": "continuous", "mark": WORD, "rate": 1_000_000}
        self.bodies = [
            chat(NUMBERED, stream=True, max_tokens=WORDS, user=name, **told) for name in self._names
        ]

    @property
    def said(self) -> list[int]:
        return [count for name in self._names for count in self._chaos.produced(name)]

    async def ended(self) -> bool:
        """Whether no worker holds any of them to run."""
        return not any((await outstanding(self._chaos)).values())

    def close(self) -> None:
        """What an engine does is said in each request."""


def _behind(chaos: Chaos, whose: str) -> ByProvider | ByWorkers:
    if whose == "own workers":
        return ByWorkers(chaos)
    if whose == "a provider over TLS":
        return ByProvider(chaos.secure, "secure")
    return ByProvider(chaos.platform.first, "plain")


@pytest.mark.parametrize(
    "whose", ["own workers", "a provider over TLS", *(["a provider"] if LONG else [])]
)
async def test_who_reads_a_byte_a_second_costs_little_and_is_cut_and_settled(
    chaos: Chaos, figure: Figure, whose: str
) -> None:
    await _made_afresh(chaos, ("gateway", "inference", "worker"))
    user, other = await chaos.platform.sign_up(), await chaos.platform.sign_up()
    key = (await user.key())["key"]
    await _make_what_is_made_once(chaos, other)
    behind = _behind(chaos, whose)
    calm = await _others(chaos, other)

    with Watched([pid for part in behind.parts for pid in chaos.pids(part)]) as watched:
        async with crawling(chaos, key, behind.bodies) as readers:
            await eventually(lambda: _full(behind), 300)
            held = watched.total
            said = behind.said
            beside = await _others(chaos, other)
            took = await asyncio.gather(*readers) if LONG else []
    behind.close()

    who, under = f"slow reader of {whose}", f"{READERS} of them"
    each = held / READERS / 1024
    most = MOST_BUFFERED_KB + (TLS_STATE_KB if "TLS" in whose else 0)
    figure(f"{who}, memory", each, "KB", must=f"≤ {most} KB", condition=under)
    on_the_way = statistics.mean(said) * len(WORD) / 1024
    figure(f"{who}, of its answer on the way", on_the_way, "KB", condition="kernel and engine too")
    more = 100 * (_p99(beside) / _p99(calm) - 1)
    figure(f"{who}, others' p99", more, "% more", must="≤ 20 %", condition=under)
    assert max(said) < WORDS
    assert each <= most
    assert {each.outcome for each in beside} == {"ok"}
    if took:
        figure(f"{who}, the last is cut after", max(took), "s", must="60 s of no reading")
        assert max(took) <= CUT_SECONDS
    await eventually(behind.ended, 10)
    await settle(chaos, user)
    records = [row for row in await user.every("/v1/usage/records") if row["charged_nanos"]]
    assert len(records) == READERS
    assert max(row["output_tokens"] for row in records) <= max(behind.said)
    assert int((await user.data("GET", "/v1/wallet"))["held_nanos"]) == 0


async def _made_afresh(chaos: Chaos, parts: Sequence[str]) -> None:
    """Processes that have had many answers in hand before keep memory, and seem to take none."""
    before = {pid for part in parts for pid in chaos.pids(part)}
    kill(*before)

    async def back() -> bool:
        now = {pid for part in parts for pid in chaos.pids(part)}
        return not now & before and await chaos.serves()

    await eventually(back, 60)


async def _make_what_is_made_once(chaos: Chaos, user: User) -> None:
    """Has every process do what slow readers will ask of it; to trust in authorities takes most."""
    async with Load(chaos, user, streams=8, json=8, max_tokens=10, rate=1_000) as load:
        await load.until(lambda each: each.outcome == "ok", times=200)
    asked = chat("secure", max_tokens=10)
    calls = (user.call("POST", "/v1/chat/completions", json=asked) for _ in range(16))
    assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}


async def _others(chaos: Chaos, user: User) -> list[Operation]:
    async with Load(chaos, user, json=4, max_tokens=10, rate=1_000) as load:
        await asyncio.sleep(QUIET_SECONDS)
    return load.operations


def _p99(operations: Sequence[Operation]) -> float:
    took = [each.ended - each.invoked for each in operations if each.outcome == "ok"]
    return statistics.quantiles(took, n=100)[98]


async def _full(behind: ByProvider | ByWorkers) -> bool:
    """Whether every reader's answer stands still: nothing more fits on the way."""
    before = behind.said
    await asyncio.sleep(1)
    return len(before) == READERS and before == behind.said


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
