"""Replicas behind one name: those that are added get their share, and nobody's call ends for it."""

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from vlinders.auth.v1 import identity_pb2 as pb
from vlinders.auth.v1.identity_pb2_grpc import (
    IdentityServiceServicer,
    IdentityServiceStub,
    add_IdentityServiceServicer_to_server,
)
from vlinders_kit import rpc
from vlinders_kit.callers import Identity
from vlinders_kit.pipe import Dial, Exchange, PipePool, pool
from vlinders_kit.rpc import SERVER_OPTIONS, Guard, connect
from vlinders_kit.testing import CALLER_KEY, piped
from vlinders_kit.testing.pipes import INFERENCE, PIPE

SERVICE = "vlinders.auth.v1.IdentityService"
SERVING, NOT_SERVING = 1, 2
FIRST, SECOND = "127.0.0.1", "127.0.0.2"
HURRIED = {"grpc.max_connection_age_ms": 300, "grpc.dns_min_time_between_resolutions_ms": 100}
"""What takes a minute, in a test's time."""


class Names(asyncio.DatagramProtocol):
    """A name server that knows one name."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = [*addresses]
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, asker: Any) -> None:
        ends = data.index(b"\0", 12) + 5
        (kind,) = struct.unpack("!H", data[ends - 4 : ends - 2])
        found = self.addresses if kind == 1 else []  # it has no IPv6
        rows = (struct.pack("!HHHIH4B", 0xC00C, 1, 1, 1, 4, *_bytes(each)) for each in found)
        head = data[:2] + struct.pack("!HHHHH", 0x8580, 1, len(found), 0, 0)
        self._transport.sendto(head + data[12:ends] + b"".join(rows), asker)


class Replica(IdentityServiceServicer):
    """Counts what it is asked, and over how many connections."""

    def __init__(self, address: str, asked: Counter[str], peers: set[str]) -> None:
        self._address, self._asked, self._peers = address, asked, peers
        self.health = health.aio.HealthServicer()

    async def Introspect(self, request: Any, context: Any) -> pb.IntrospectResponse:
        self._asked[self._address] += 1
        self._peers.add(context.peer())
        return pb.IntrospectResponse()


class Replicas:
    """Two replicas at one port of two addresses, of which the name server knows the first."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.names = Names(FIRST)
        self.peers: set[str] = set()
        self.by_address = {each: Replica(each, self.asked, self.peers) for each in (FIRST, SECOND)}
        self.port = 0
        self.target = ""

    async def ask(self, channel: grpc.aio.Channel, until: str) -> None:
        """Calls one after the other until the replica at this address has answered ten."""
        async with asyncio.timeout(30):
            while self.asked[until] < 10:
                await IdentityServiceStub(channel).Introspect(pb.IntrospectRequest(session_id="s"))
                await asyncio.sleep(0.001)


@pytest.fixture
async def replicas(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replicas]:
    monkeypatch.setattr(rpc, "OPTIONS", _hurried(rpc.OPTIONS))
    made = Replicas()
    async with AsyncExitStack() as stack:
        for address, replica in made.by_address.items():
            made.port = await stack.enter_async_context(_served(replica, address, made.port))
        asked = ("127.0.0.1", 0)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: made.names, local_addr=asked)
        stack.callback(transport.close)
        _, port = transport.get_extra_info("sockname")
        made.target = f"dns://127.0.0.1:{port}/replicas.test:{made.port}"
        yield made


@asynccontextmanager
async def _served(replica: Replica, address: str, port: int) -> AsyncIterator[int]:
    server = grpc.aio.server(
        interceptors=[Guard("vlinders.auth", CALLER_KEY)], options=_hurried(SERVER_OPTIONS)
    )
    add_IdentityServiceServicer_to_server(replica, server)
    health_pb2_grpc.add_HealthServicer_to_server(replica.health, server)
    await replica.health.set(SERVICE, SERVING)
    port = server.add_insecure_port(f"{address}:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def _hurried(options: Any) -> list[tuple[str, Any]]:
    return [(name, HURRIED.get(name, value)) for name, value in options]


def _bytes(address: str) -> list[int]:
    return [int(each) for each in address.split(".")]


def _connect(replicas: Replicas, offering: str | None = None) -> grpc.aio.Channel:
    identity = Identity("gateway", CALLER_KEY)
    return connect(replicas.target, "vlinders.auth", identity, offering=offering)


async def test_a_replica_that_is_added_gets_calls_and_none_fails(replicas: Replicas) -> None:
    async with _connect(replicas) as channel:
        await replicas.ask(channel, FIRST)
        assert replicas.asked.keys() == {FIRST}
        replicas.names.addresses.append(SECOND)
        await replicas.ask(channel, SECOND)


async def test_a_replica_that_left_the_name_gets_none(replicas: Replicas) -> None:
    replicas.names.addresses.append(SECOND)
    async with _connect(replicas) as channel:
        await replicas.ask(channel, SECOND)
        replicas.names.addresses.remove(FIRST)
        async with asyncio.timeout(30):
            before = -1
            while replicas.asked[FIRST] != before:
                before = replicas.asked[FIRST]
                replicas.asked[SECOND] = 0
                await replicas.ask(channel, SECOND)


async def test_a_stream_outlives_what_calls_are_moved_from(replicas: Replicas) -> None:
    async with _connect(replicas) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=SERVICE)
        )
        assert (await watch.read()).status == SERVING
        replicas.names.addresses.append(SECOND)
        await replicas.ask(channel, SECOND)  # the connection of the stream is over its age
        await replicas.by_address[FIRST].health.set(SERVICE, NOT_SERVING)
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()


async def test_no_old_connection_is_kept_by_questions_for_health(replicas: Replicas) -> None:
    async with _connect(replicas, offering=SERVICE) as channel:
        async with asyncio.timeout(30):
            while len(replicas.peers) < 6:
                replicas.asked.clear()
                await replicas.ask(channel, FIRST)
            while len(_accepted(replicas.port)) > 1:
                await asyncio.sleep(0.01)


async def test_a_pool_of_pipes_goes_by_what_the_name_stands_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known: list[str] = []
    looks = 0

    async def addresses(_target: str) -> list[str]:
        nonlocal looks
        looks += 1
        return [*known]

    async def answer(exchange: Exchange) -> None:
        raise AssertionError("nobody asks")

    monkeypatch.setattr(pool, "_addresses", addresses)
    monkeypatch.setattr(pool, "_RESOLVE_SECONDS", 0.01)
    pipes = PipePool(["replicas.test:1"], Dial(PIPE, INFERENCE, Identity("gateway", CALLER_KEY)))
    running = asyncio.create_task(pipes.run())
    async with asyncio.timeout(30), piped(answer) as first, piped(answer) as second:
        known.append(first)
        await _ready(pipes, 1)
        known.append(second)
        await _ready(pipes, 2)
        known.clear()  # the name server is silent: that is no reason to leave anybody
        seen = looks
        while looks < seen + 3:
            await asyncio.sleep(0.01)
        assert pipes.ready_count == 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def _ready(pipes: PipePool, number: int) -> None:
    while pipes.ready_count != number:
        await asyncio.sleep(0.01)


def _accepted(port: int) -> list[Any]:
    """Connections of this process that are open at the end of the replicas."""
    every = psutil.Process().net_connections("tcp")
    return [each for each in every if each.laddr.port == port and each.status == "ESTABLISHED"]
