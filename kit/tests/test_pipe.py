"""The pipe, over a real channel."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from vlinders.api.v1.pipe_pb2 import PipeOpen
from vlinders.inference.v1 import generations_pb2
from vlinders_kit.callers import CallerKey, Identity
from vlinders_kit.errors import NotFound, invalid
from vlinders_kit.pipe import Dial, Exchange, PipeLost, PipePool, PipeServer
from vlinders_kit.pipe.client import WINDOW
from vlinders_kit.rpc import Guard
from vlinders_kit.testing import Awaited, PipeFailed
from vlinders_kit.tls import Tls

pytestmark = pytest.mark.anyio

DOMAIN = "vlinders.inference"
KEY = CallerKey(b"k" * 32)
Handler = Callable[[Exchange], Awaitable[None]]


class ModelNotFound(NotFound):
    """There is no model {model}."""

    model: str


PATH = f"/{generations_pb2.DESCRIPTOR.services_by_name['GenerationService'].full_name}/Pipe"


class Replica:
    """A service with nothing but a pipe, on a port of its own."""

    def __init__(
        self, handler: Handler, *, most: int = 4096, port: int = 0, tls: Tls | None = None
    ) -> None:
        self.pipe = PipeServer(handler, domain=DOMAIN, most=most)
        guard = Guard(DOMAIN, KEY)
        self.listening = self.pipe.listen("127.0.0.1", port, path=PATH, guard=guard, tls=tls)
        self.port = self.listening.port
        self.address = f"127.0.0.1:{self.port}"
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._running = asyncio.create_task(self.listening.run())

    async def stop(self) -> None:
        """As a process that is killed."""
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        for conversation in list(self.pipe.conversations):
            conversation._wire.close()
        await until(lambda: not self.pipe.conversations)


@asynccontextmanager
async def serving(handler: Handler, *, most: int = 4096, port: int = 0) -> AsyncIterator[Replica]:
    replica = Replica(handler, most=most, port=port)
    await replica.start()
    try:
        yield replica
    finally:
        await replica.stop()


@asynccontextmanager
async def connected(*replicas: Replica) -> AsyncIterator[PipePool]:
    dial = Dial(PATH, DOMAIN, Identity("gateway", KEY))
    pool = PipePool([replica.address for replica in replicas], dial)
    running = asyncio.create_task(pool.run())
    try:
        await until(lambda: pool.ready_count == len(replicas))
        yield pool
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def ask(pool: PipePool, body: bytes = b"", **over: Any) -> Awaited:
    return Awaited(pool.open, PipeOpen(body=body, **over))


async def echo(exchange: Exchange) -> None:
    exchange.head("application/json")
    await exchange.send(exchange.open.body)


async def test_requests_share_a_stream_and_get_their_own_answers() -> None:
    async with serving(echo) as replica, connected(replica) as pool:
        bodies = [b"%d" % number * 100 for number in range(200)]
        answers = await asyncio.gather(*(ask(pool, body).whole() for body in bodies))
    assert answers == bodies


async def test_an_answer_larger_than_the_window_arrives_whole() -> None:
    async with serving(echo) as replica, connected(replica) as pool:
        body = bytes(range(256)) * 12_000
        assert await ask(pool, body).whole() == body


async def test_a_slow_reader_stops_its_own_exchange_and_nobody_elses() -> None:
    sent = 0

    async def pour(exchange: Exchange) -> None:
        nonlocal sent
        exchange.head("text/event-stream")
        if exchange.open.body:
            await exchange.send(exchange.open.body)
            return
        while not exchange.cancelled:
            await exchange.send(b"x" * 1024)
            sent += 1024

    async with serving(pour) as replica, connected(replica) as pool:
        slow = ask(pool)
        await slow.head()
        await until(lambda: sent >= WINDOW - 1024)
        for _ in range(20):
            assert await ask(pool, b"quick").whole() == b"quick"
        assert sent <= WINDOW
        slow.cancel()


async def test_a_client_that_leaves_is_heard_and_the_handler_goes_on_to_settle() -> None:
    settled = asyncio.Event()

    async def work(exchange: Exchange) -> None:
        exchange.head("text/event-stream")
        await exchange.send(b"first")
        await exchange.until_cancelled()
        await exchange.send(b"dropped" * WINDOW)
        settled.set()

    async with serving(work) as replica, connected(replica) as pool:
        exchange = ask(pool)
        assert await exchange.data() == b"first"
        exchange.cancel()
        async with asyncio.timeout(10):
            await settled.wait()
        with pytest.raises(PipeLost):
            await exchange.data()


async def test_a_lost_gateway_cancels_what_it_had_open() -> None:
    cancelled = asyncio.Event()

    async def work(exchange: Exchange) -> None:
        exchange.head("text/event-stream")
        await exchange.until_cancelled()
        cancelled.set()

    async with serving(work) as replica:
        async with connected(replica) as pool:
            await ask(pool).head()
        async with asyncio.timeout(10):
            await cancelled.wait()


async def test_a_refusal_comes_with_its_reason_and_its_fields() -> None:
    async def refuse(exchange: Exchange) -> None:
        if exchange.open.body:
            raise invalid("messages[0].role", "is not a role")
        raise ModelNotFound(model="gpt-x")

    async with serving(refuse) as replica, connected(replica) as pool:
        with pytest.raises(PipeFailed) as missing:
            await ask(pool).head()
        with pytest.raises(PipeFailed) as wrong:
            await ask(pool, b"x").head()
    assert missing.value.failure.reason == "MODEL_NOT_FOUND"
    assert missing.value.failure.facts == {"model": "gpt-x"}
    assert [row.field for row in wrong.value.failure.violations] == ["messages[0].role"]


async def test_a_failure_after_the_head_comes_after_what_was_sent() -> None:
    async def break_off(exchange: Exchange) -> None:
        exchange.head("text/event-stream")
        await exchange.send(b"half")
        raise RuntimeError("a bug with a secret in its text")

    async with serving(break_off) as replica, connected(replica) as pool:
        exchange = ask(pool)
        assert await exchange.data() == b"half"
        with pytest.raises(PipeFailed) as broken:
            await exchange.data()
    assert broken.value.failure.reason == "INTERNAL_ERROR"
    assert "secret" not in broken.value.failure.message


async def test_what_passes_its_deadline_ends_with_it() -> None:
    async def linger(exchange: Exchange) -> None:
        await exchange.until_cancelled()

    async with serving(linger) as replica, connected(replica) as pool:
        with pytest.raises(PipeFailed) as late:
            await ask(pool, deadline_ms=20).head()
    assert late.value.failure.reason == "REQUEST_TOOK_TOO_LONG"


async def test_more_than_a_replica_takes_is_refused_at_once() -> None:
    gate = asyncio.Event()

    async def linger(exchange: Exchange) -> None:
        await gate.wait()

    async with serving(linger, most=2) as replica, connected(replica) as pool:
        for _ in range(2):
            ask(pool)
        with pytest.raises(PipeFailed) as refused:
            await ask(pool).head()
        gate.set()
    assert refused.value.failure.reason == "TOO_MANY_REQUESTS_IN_FLIGHT"
    assert refused.value.failure.retry_after is not None


async def test_a_replica_that_dies_loses_its_exchanges_and_the_other_serves_on() -> None:
    async def linger(exchange: Exchange) -> None:
        exchange.head("text/event-stream")
        await exchange.until_cancelled()

    async with serving(linger) as doomed, serving(echo) as other, connected(doomed, other) as pool:
        opened = [ask(pool, b"x") for _ in range(4)]
        lost = [exchange for exchange in opened if exchange.address == doomed.address]
        assert lost
        await doomed.stop()
        for exchange in lost:
            with pytest.raises(PipeLost):
                await exchange.whole()
        assert await ask(pool, b"on").whole() == b"on"


async def test_a_draining_replica_ends_what_it_has_and_takes_no_more() -> None:
    gate = asyncio.Event()

    async def linger(exchange: Exchange) -> None:
        exchange.head("text/event-stream")
        await gate.wait()
        await exchange.send(b"to the end")

    async with (
        serving(linger) as leaving,
        serving(echo) as staying,
        connected(leaving, staying) as pool,
    ):
        opened = [ask(pool, b"x") for _ in range(2)]
        running = next(exchange for exchange in opened if exchange.address == leaving.address)
        await running.head()
        drained = asyncio.create_task(leaving.pipe.drain())
        await until(lambda: pool.ready_count == 1)
        assert {ask(pool).address for _ in range(5)} == {staying.address}
        gate.set()
        assert await running.data() == b"to the end"
        assert await running.data() == b""
        await drained


async def test_what_outlives_a_drain_is_told_so_and_settles() -> None:
    settled = []

    async def endless(exchange: Exchange) -> None:
        exchange.head("text/event-stream")
        await exchange.until_cancelled()
        settled.append(exchange)

    async with serving(endless) as replica, connected(replica) as pool:
        exchange = ask(pool, b"x")
        await exchange.head()
        await replica.pipe.drain(within=0.05)
        assert len(settled) == 1
        with pytest.raises(PipeFailed) as failed:
            await exchange.data()
    assert failed.value.failure.reason == "REPLICA_STOPS"


async def test_a_client_connects_again_by_itself() -> None:
    first = Replica(echo)
    await first.start()
    async with connected(first) as pool:
        await first.stop()
        await until(lambda: not pool.ready)
        async with serving(echo, port=first.port):
            await until(lambda: pool.ready)
            assert await ask(pool, b"again").whole() == b"again"


@pytest.mark.parametrize("told", ["begin", "take", "end", "flush", "lose"])
async def test_a_receiver_that_raises_is_told_so_and_ends_alone(told: str) -> None:
    fault, left = RuntimeError("a fault of the receiver"), asyncio.Event()

    class Faulty(Awaited):
        async def until_over(self) -> None:
            while await self.data():
                pass

    def raise_it(*told: Any) -> None:
        raise fault

    async def answer(exchange: Exchange) -> None:
        exchange.head("text/event-stream")
        await exchange.send(exchange.open.body)
        if exchange.open.body == b"stays":
            await exchange.until_cancelled()
            left.set()

    setattr(Faulty, told, raise_it)
    async with serving(answer) as replica, connected(replica) as pool:
        body = b"goes" if told == "end" else b"stays"
        faulty, other = Faulty(pool.open, PipeOpen(body=body)), ask(pool, b"stays")
        assert await other.data() == b"stays"
        if told == "lose":
            await replica.stop()
        with pytest.raises(RuntimeError) as raised:
            await faulty.until_over()
        assert raised.value is fault
        if told not in ("end", "lose"):
            async with asyncio.timeout(10):
                await left.wait()
            assert await ask(pool, b"others go on").data() == b"others go on"
