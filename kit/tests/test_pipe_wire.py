"""The wire of pipes: stock gRPC at the other end, and what speaks no gRPC at all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from vlinders.api.v1.pipe_pb2 import PipeEnd, PipeFrame, PipeFrames, PipeHead, PipeOpen
from vlinders.inference.v1.generations_pb2_grpc import (
    GenerationServiceServicer,
    GenerationServiceStub,
    add_GenerationServiceServicer_to_server,
)
from vlinders_kit.callers import CallerKey, Identity
from vlinders_kit.pipe import Dial, PipePool, calls, wire
from vlinders_kit.rpc import Guard, connect
from vlinders_kit.testing import Awaited
from vlinders_kit.testing.certificates import Authority
from vlinders_kit.testing.lines import line
from vlinders_kit.tls import Tls

from .test_pipe import DOMAIN, KEY, PATH, Replica, connected, echo, serving, until

pytestmark = pytest.mark.anyio

LARGE = bytes(range(256)) * 30_000
"""Some 7.7 MB: more than any side's first window, and than a frame."""

AUTHORITY = Authority()


class Stock(GenerationServiceServicer):
    """A pipe that grpcio serves: it sends each body back."""

    async def Pipe(self, request: Any, context: Any) -> Any:
        await context.send_initial_metadata(())
        async for message in request:
            for frame in message.frames:
                if frame.HasField("open"):
                    body, number = frame.open.body, frame.exchange
                    kinds = [{"head": PipeHead(content_type="x")}, {"data": body}]
                    frames = [PipeFrame(exchange=number, **kind) for kind in kinds]
                    yield PipeFrames(frames=[*frames, PipeFrame(exchange=number, end=PipeEnd())])


@asynccontextmanager
async def stock_server(tls: Tls | None = None) -> AsyncIterator[str]:
    server = grpc.aio.server(
        interceptors=[Guard(DOMAIN, KEY)],
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    add_GenerationServiceServicer_to_server(Stock(), server)
    port = (
        server.add_insecure_port("127.0.0.1:0")
        if tls is None
        else server.add_secure_port("127.0.0.1:0", tls.for_server())
    )
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


@asynccontextmanager
async def pool_to(address: str, dial: Dial) -> AsyncIterator[PipePool]:
    pool = PipePool([address], dial)
    running = asyncio.create_task(pool.run())
    try:
        await until(lambda: pool.ready)
        yield pool
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def opened(number: int, body: bytes) -> PipeFrames:
    request = PipeOpen(body=body, window=1 << 24)
    return PipeFrames(frames=[PipeFrame(exchange=number, open=request)])


@pytest.mark.parametrize("body", [b"", b"x", LARGE], ids=["nothing", "a byte", "megabytes"])
async def test_stock_grpc_serves_what_is_dialled(body: bytes) -> None:
    async with (
        stock_server() as address,
        pool_to(address, Dial(PATH, DOMAIN, Identity("gateway", KEY))) as pool,
    ):
        for _ in range(3):
            assert await Awaited(pool.open, PipeOpen(body=body)).whole() == body


@pytest.mark.parametrize("body", [b"", b"x", LARGE], ids=["nothing", "a byte", "megabytes"])
async def test_stock_grpc_is_served(body: bytes) -> None:
    async with serving(echo) as replica:
        channel = connect(replica.address, DOMAIN, Identity("gateway", KEY))
        call: Any = GenerationServiceStub(channel).Pipe()
        for number in (1, 2, 3):
            await call.write(opened(number, body))
            got, ended = b"", False
            while not ended:
                message = await call.read()
                got += b"".join(frame.data for frame in message.frames)
                ended = any(frame.HasField("end") for frame in message.frames)
            assert got == body
        await channel.close()
        await until(lambda: not replica.pipe.conversations)


async def test_a_call_that_ends_in_order_is_told_so_to_stock_grpc() -> None:
    async with serving(echo) as replica:
        channel = connect(replica.address, DOMAIN, Identity("gateway", KEY))
        call: Any = GenerationServiceStub(channel).Pipe()
        await call.write(opened(1, b"x"))
        await call.read()
        await replica.pipe.drain()
        while await call.read() is not grpc.aio.EOF:
            pass
        assert await call.code() == grpc.StatusCode.OK
        await channel.close()


@pytest.mark.parametrize(
    "identity",
    [Identity("gateway", CallerKey(b"z" * 32)), Identity("billing", KEY)],
    ids=["another key", "another part"],
)
async def test_nobody_but_the_gateway_is_let_in(identity: Identity) -> None:
    async with serving(echo) as replica:
        channel = connect(replica.address, DOMAIN, identity)
        call: Any = GenerationServiceStub(channel).Pipe()
        assert await call.code() in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.PERMISSION_DENIED,
        )
        await channel.close()
        with pytest.raises(wire.WireBroken, match="refused"):
            await Dial(PATH, DOMAIN, identity)(replica.address, Silent())


async def test_another_call_is_not_there() -> None:
    async with serving(echo) as replica:
        dial = Dial("/vlinders.inference.v1.ModelService/ListModels", DOMAIN, Identity("a", KEY))
        with pytest.raises(wire.WireBroken, match="code 5"):
            await dial(replica.address, Silent())


async def test_parts_with_certificates_talk_and_nobody_else_does() -> None:
    replica = Replica(echo, tls=AUTHORITY.part(DOMAIN))
    await replica.start()
    me = Identity("gateway", KEY)
    shown = Dial(PATH, DOMAIN, me, AUTHORITY.part("gateway"))
    async with pool_to(replica.address, shown) as pool:
        assert await Awaited(pool.open, PipeOpen(body=LARGE)).whole() == LARGE
    for wrong in (
        Dial(PATH, DOMAIN, me),
        Dial(PATH, DOMAIN, me, Authority().part("gateway")),
        Dial(PATH, "vlinders.billing", me, AUTHORITY.part("gateway")),
    ):
        with pytest.raises((OSError, wire.WireBroken)):
            await wrong(replica.address, Silent())
    await replica.stop()


async def test_stock_grpc_with_a_certificate_serves_what_is_dialled() -> None:
    dial = Dial(PATH, DOMAIN, Identity("gateway", KEY), AUTHORITY.part("gateway"))
    async with stock_server(AUTHORITY.part(DOMAIN)) as address, pool_to(address, dial) as pool:
        assert await Awaited(pool.open, PipeOpen(body=LARGE)).whole() == LARGE


async def closed(reader: asyncio.StreamReader) -> None:
    """Returns when the other side has ended the connection."""
    with contextlib.suppress(ConnectionError):
        await reader.read()


FRAME = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # SETTINGS, empty
NONSENSE = {
    "no HTTP/2": b"GET / HTTP/1.1\r\n\r\n",
    "a frame that is too large": calls._PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "headers that are none": calls._PREFACE
    + FRAME
    + b"\x00\x00\x02\x01\x04\x00\x00\x00\x01\xff\xff",
    "headers without end": calls._PREFACE
    + FRAME
    + b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82"
    + FRAME,
    "a window beyond all": calls._PREFACE
    + FRAME
    + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff",
    "padding beyond the frame": calls._PREFACE + b"\x00\x00\x02\x01\x0c\x00\x00\x00\x01\x09\x82",
}


@pytest.mark.parametrize("sent", NONSENSE.values(), ids=NONSENSE.keys())
async def test_nonsense_ends_its_own_connection_and_nobody_elses(sent: bytes) -> None:
    async with serving(echo) as replica, connected(replica) as pool:
        reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
        writer.write(sent)
        async with asyncio.timeout(5):
            await closed(reader)
        writer.close()
        assert await Awaited(pool.open, PipeOpen(body=b"on")).whole() == b"on"


async def test_whoever_calls_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "TICK_SECONDS", 0.05)
    async with serving(echo) as replica:
        reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
        async with asyncio.timeout(5):
            await closed(reader)
        writer.close()


async def test_a_side_that_falls_silent_is_lost_and_one_that_only_waits_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "TICK_SECONDS", 0.4)
    dial = Dial(PATH, DOMAIN, Identity("gateway", KEY))
    async with serving(echo) as replica:
        with line("127.0.0.1", replica.port) as between:
            async with pool_to(between.address, dial) as pool:
                await asyncio.sleep(2)  # pings keep an idle pipe
                assert pool.ready
                with between.held():
                    await until(lambda: not pool.ready)
                    await until(lambda: not replica.pipe.conversations)
                await until(lambda: pool.ready)


class Silent:
    """Holds no conversation."""

    def message(self, body: bytes) -> None:
        raise AssertionError("nothing was to be said")

    def lost(self, why: str) -> None:
        pass
