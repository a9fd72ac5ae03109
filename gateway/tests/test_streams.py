"""Answers from the pipe to the client, when a fault of the gateway's own ends one."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from vlinders.api.v1.pipe_pb2 import PipeOpen
from vlinders_gateway.dialects import CANONICAL
from vlinders_gateway.hot import HotExchange
from vlinders_gateway.operations import named
from vlinders_gateway.streams import Relay
from vlinders_gateway.testing import Running, assert_refused, spoken
from vlinders_kit.callers import Identity
from vlinders_kit.pipe import Dial, Exchange, PipePool
from vlinders_kit.testing import CALLER_KEY, piped
from vlinders_kit.testing.pipes import INFERENCE, PIPE

pytestmark = pytest.mark.anyio

CHAT = named("CreateChatCompletion")
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"


class Relays:
    """Answers a hot route with what comes over the pipe, whoever asks."""

    def __init__(self, pool: PipePool) -> None:
        self._pool = pool

    def admit(self, exchange: HotExchange) -> None:
        return None

    def serve(self, exchange: HotExchange, body: bytes) -> None:
        Relay(exchange, self._pool, PipeOpen(request_id=exchange.id, body=body))


async def answer(exchange: Exchange) -> None:
    """Inference: one answer that is whole, or the first event of one that never ends."""
    if exchange.open.body == b"{}":
        exchange.head("application/json")
        await exchange.send(b"{}")
    else:
        exchange.head("text/event-stream")
        await exchange.send(b"data: 1\n\n")
        await exchange.until_cancelled()


@pytest.fixture
async def relaying(running: Running) -> AsyncIterator[Running]:
    async with piped(answer) as address:
        pool = PipePool([address], Dial(PIPE, INFERENCE, Identity("gateway", CALLER_KEY)))
        keeping = asyncio.create_task(pool.run())
        while not pool.ready:
            await asyncio.sleep(0.005)
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, Relays(pool))
        yield running
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


def fail(*told: object) -> None:
    raise RuntimeError("a fault of the gateway's own")


@pytest.mark.parametrize("body", [b"{}", b"[]"], ids=["whole", "stream"])
async def test_before_anything_has_left_it_is_an_internal_error(
    relaying: Running, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(Relay, "take", fail)

    refused = await spoken(relaying.port, POST + body)

    assert_refused(refused, 500, "internal_error")
    assert relaying.edge.running == 0


async def test_amid_a_stream_the_connection_breaks(
    relaying: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = Relay.flush

    def flush_and_fail(relay: Relay) -> None:
        flush(relay)
        fail()

    monkeypatch.setattr(Relay, "flush", flush_and_fail)
    reader, writer = await asyncio.open_connection("127.0.0.1", relaying.port)
    writer.write(POST + b"[]")

    async with asyncio.timeout(10):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.close()
    assert relaying.edge.running == 0


class Faulty:
    """Has written of its answer when it fails."""

    def admit(self, exchange: HotExchange) -> None:
        return None

    def serve(self, exchange: HotExchange, body: bytes) -> None:
        exchange.begin(200, b"text/event-stream")
        exchange.write(b"data: 1\n\n")
        fail()


async def test_what_is_written_and_has_not_left_is_taken_back(running: Running) -> None:
    running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, Faulty())

    answer = await spoken(running.port, POST + b"{}")

    assert_refused(answer, 500, "internal_error")
    assert b"data: 1" not in answer
