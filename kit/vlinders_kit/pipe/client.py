"""The asking end of a pipe: one stream to a replica of a service, kept open."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from vlinders.api.v1.pipe_pb2 import PipeFrame, PipeFrames, PipeOpen
from vlinders_kit import logs
from vlinders_kit.callers import Identity
from vlinders_kit.errors import Failure, Unavailable, failure_of
from vlinders_kit.pipe import frames
from vlinders_kit.pipe.calls import Dialled
from vlinders_kit.pipe.queue import FrameQueue
from vlinders_kit.pipe.wire import Talker, WireBroken
from vlinders_kit.tls import Tls

WINDOW = 48 * 1024
"""Bytes that an exchange may have under way to a reader that does not read."""

_BACKOFF = (0.05, 2.0)
"""Seconds: least and most between two tries to connect; each is drawn at random below its bound."""

_DIAL_SECONDS = 5.0
"""How long a connection may take until the other side has accepted the call."""

log = logs.get(__name__)


class PipeLost(Unavailable):
    """The connection to the replica that served the request is lost."""


class Receiver(Protocol):
    """Who gets the answer of an exchange: told of each frame as it is read, without waiting.

    What one message of the stream brought is told in one go, and `flush` after it, so a receiver
    can pass it on in one piece. Nothing comes after the `flush` of its `end`, `lose`, or `fail`.
    """

    def begin(self, content_type: str) -> None:
        """The answer begins."""

    def take(self, piece: bytes) -> None:
        """More of the answer. Whoever has passed it on says so by `PipeExchange.took`."""

    def end(self, failure: Failure | None) -> None:
        """The answer is whole, or the other side ends it with a failure."""

    def lose(self) -> None:
        """The connection to the replica is lost."""

    def fail(self, error: Exception) -> None:
        """It has raised this when told of something, which ends the exchange."""

    def flush(self) -> None:
        """Everything that came at the same time has been told."""


class PipeExchange:
    """A request under way, as its asker sees it."""

    __slots__ = ("_client", "_number", "_taken", "over", "receiver")

    def __init__(self, client: "PipeClient", number: int, receiver: Receiver) -> None:
        self.receiver = receiver
        self.over = False
        """It has ended, is lost, or was cancelled."""
        self._client = client
        self._number = number
        self._taken = 0

    @property
    def replica(self) -> "PipeClient":
        """Where it is served."""
        return self._client

    def receive(self, frame: PipeFrame) -> None:
        """Tells the receiver."""
        kind = frame.WhichOneof("kind")
        if kind == "data":
            self.receiver.take(frame.data)
        elif kind == "head":
            self.receiver.begin(frame.head.content_type)
        elif kind == "end":
            self.over = True
            failed = frame.end.HasField("status")
            self.receiver.end(failure_of(frame.end.status) if failed else None)

    def took(self, size: int) -> None:
        """Makes room for `size` more bytes: so much of the data has been passed on."""
        self._taken += size
        if self._taken >= WINDOW // 2 and not self.over:
            self._client.send(frames.window(self._number, self._taken))
            self._taken = 0

    def cancel(self) -> None:
        """Says that nobody wants the rest. The receiver is told nothing more."""
        if not self.over:
            self.over = True
            self._client.forget(self._number)
            self._client.send(frames.cancel(self._number))

    def fail(self, error: Exception) -> None:
        """The receiver has raised: a fault of its own is the end of its exchange, and no other."""
        self.cancel()
        try:
            self.receiver.fail(error)
        except Exception as another:
            log.error("receiver_failed", exc_info=another)
        self.release()

    def release(self) -> None:
        """Nothing is told any more.

        They hold each other: left so, every request would wait for the garbage collector.
        """
        del self.receiver


@dataclass(frozen=True)
class Dial:
    """How a service's pipes are reached: the RPC, as `/package.Service/Pipe`, and who asks for it.

    With `tls` connections are encrypted, and to nobody but `audience`.
    """

    path: str
    audience: str
    identity: Identity
    tls: Tls | None = None

    async def __call__(self, address: str, talker: Talker) -> Dialled:
        """A connection to `address` on which the call is accepted. Raises WireBroken, OSError."""
        host, _, port = address.rpartition(":")
        metadata = [self.identity.metadata(self.audience)]

        def dialled() -> Dialled:
            return Dialled(self.path, address, metadata, talker)

        async with asyncio.timeout(_DIAL_SECONDS):
            secured = {} if self.tls is None else self.tls.for_client(self.audience)
            _, wire = await asyncio.get_running_loop().create_connection(
                dialled, host.strip("[]"), int(port), **secured
            )
            try:
                await wire.accepted
            except BaseException:
                await wire.closed()
                raise
        return wire


class PipeClient:
    """The pipe to one replica. `run` keeps it connected; `ready` says whether it takes requests."""

    def __init__(self, address: str, dial: Callable[[str, Talker], Awaitable[Dialled]]) -> None:
        self.address = address
        self.ready = False
        self._dial = dial
        self._exchanges: dict[int, PipeExchange] = {}
        self._next = 1
        self._out: FrameQueue | None = None
        self._over: asyncio.Future[str]
        self._drains = False

    @property
    def outstanding(self) -> int:
        return len(self._exchanges)

    def open(self, request: PipeOpen, receiver: Receiver) -> PipeExchange:
        """Sends a request. Only while `ready`."""
        request.window = WINDOW
        number, self._next = self._next, self._next + 1
        exchange = self._exchanges[number] = PipeExchange(self, number, receiver)
        self.send(frames.opened(number, request))
        return exchange

    async def run(self) -> None:
        """Connects, and connects again when the connection is lost, until cancelled."""
        bound = _BACKOFF[0]
        while True:
            began = time.monotonic()
            try:
                log.warning("pipe_lost", address=self.address, why=await self._connected())
            except (OSError, WireBroken) as error:  # TimeoutError is an OSError
                log.debug("pipe_not_connected", address=self.address, error=str(error))
            lasted = time.monotonic() - began
            bound = _BACKOFF[0] if lasted > _DIAL_SECONDS else min(bound * 2, _BACKOFF[1])
            await asyncio.sleep(random.uniform(0, bound))

    def send(self, frame: bytes) -> None:
        if self._out is not None:
            self._out.put(frame)

    def forget(self, number: int) -> None:
        self._exchanges.pop(number, None)

    def message(self, body: bytes) -> None:
        """What the replica says, as the wire hands it on."""
        exchanges, touched = self._exchanges, {}
        for frame in PipeFrames.FromString(body).frames:
            number = frame.exchange
            exchange = exchanges.get(number)
            if exchange is None:
                if frame.HasField("drain"):
                    self._drains, self.ready = True, False
                continue
            touched[number] = exchange
            try:
                exchange.receive(frame)
            except Exception as error:
                exchange.fail(error)
                del touched[number]
            if exchange.over:
                exchanges.pop(number, None)
        for exchange in touched.values():
            try:
                exchange.receiver.flush()
            except Exception as error:
                exchange.fail(error)
            else:
                if exchange.over:
                    exchange.release()

    def lost(self, why: str) -> None:
        """The connection is over, as the wire tells."""
        self.ready = False
        if self._out is not None:
            self._out.close()
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            exchange.over = True
            try:
                exchange.receiver.lose()
            except Exception as error:
                exchange.fail(error)
            else:
                exchange.release()
        if not self._over.done():
            self._over.set_result(why)

    async def _connected(self) -> str:
        """One connection, from its beginning to why it is lost."""
        self._over = asyncio.get_running_loop().create_future()
        self._drains = False
        wire = await self._dial(self.address, self)
        self._out = FrameQueue(wire.send)
        self.ready = not (self._drains or self._over.done())
        log.info("pipe_connected", address=self.address)
        try:
            return await self._over
        finally:
            self.lost("")
            await wire.closed()
