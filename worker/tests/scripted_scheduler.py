"""A scheduler that does what a test says: the worker's stream over real gRPC, and tickets."""

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import grpc

from vlinders.gpu_scheduler.v1.picks_pb2 import SignedTicket, Ticket
from vlinders.gpu_scheduler.v1.workers_pb2 import (
    Drain,
    Hello,
    HubMessage,
    Lease,
    Slot,
    Welcome,
    WorkerMessage,
)
from vlinders.gpu_scheduler.v1.workers_pb2_grpc import (
    WorkerServiceServicer,
    add_WorkerServiceServicer_to_server,
)

JOIN_TOKEN = "join-me"


def hub_now_ms() -> int:
    return int(time.monotonic() * 1000) + 5_000_000


@dataclass
class ScriptedScheduler(WorkerServiceServicer):  # type: ignore[misc]
    """Welcomes whoever connects, renews leases while `renews`, and keeps all that it hears."""

    lease: timedelta = timedelta(seconds=15)
    beat_period: timedelta = timedelta(milliseconds=50)
    renews: bool = True
    welcomes: bool = True
    epoch: int = 0
    heard: list[WorkerMessage] = field(default_factory=list)
    hellos: list[Hello] = field(default_factory=list)
    port: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _commands: asyncio.Queue[HubMessage | None] = field(default_factory=asyncio.Queue)
    _slots: dict[str, Slot] = field(default_factory=dict)

    @property
    def key(self) -> bytes:
        return hashlib.sha256(b"key of epoch %d" % self.epoch).digest()

    async def Connect(
        self,
        requests: AsyncIterator[WorkerMessage],
        context: grpc.aio.ServicerContext[WorkerMessage, HubMessage],
    ) -> AsyncIterator[HubMessage]:
        shown = dict(context.invocation_metadata() or ())
        if shown.get("vlinders-join-token") != JOIN_TOKEN or not self.welcomes:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "INVALID_JOIN_TOKEN")
        first = await anext(requests)
        self.epoch += 1
        self.hellos.append(first.hello)
        self._commands = asyncio.Queue()
        await self._hear(first)
        yield HubMessage(welcome=self._welcome())
        listening = asyncio.create_task(self._listen(requests))
        try:
            while (command := await self._commands.get()) is not None:
                yield command
        finally:
            listening.cancel()

    def drain(self, deadline: timedelta) -> None:
        drain = Drain()
        drain.deadline.FromTimedelta(deadline)
        self._commands.put_nowait(HubMessage(drain=drain))

    def hang_up(self) -> None:
        self._commands.put_nowait(None)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits until `holds`, looked at with each message that comes."""
        async with self._changed:
            await self._changed.wait_for(holds)

    async def until_ready(self, slot_id: str) -> None:
        await self.until_state(slot_id, Slot.STATE_READY)

    async def until_state(self, slot_id: str, state: "Slot.State") -> None:
        await self.until(lambda: slot_id in self._slots and self._slots[slot_id].state == state)

    def slot(self, slot_id: str) -> Slot:
        return self._slots[slot_id]

    def finished(self) -> set[str]:
        loads = [message.load for message in self.heard if message.HasField("load")]
        return {id for load in loads for slot in load.slots for id in slot.finished_request_ids}

    def ticket(self, slot_id: str, request_id: str = "", **given: int | str | bytes) -> str:
        key = given.pop("key", self.key)
        ticket = Ticket(
            **{
                "worker_id": self.hellos[-1].worker_id,
                "slot_id": slot_id,
                "epoch": self.epoch,
                "request_id": request_id,
                "expires_at_hub_ms": hub_now_ms() + 5_000,
                **given,
            }
        ).SerializeToString()
        assert isinstance(key, bytes)
        signature = hmac.new(key, ticket, hashlib.sha256).digest()
        signed = SignedTicket(ticket=ticket, signature=signature).SerializeToString()
        return base64.urlsafe_b64encode(signed).decode().rstrip("=")

    def _welcome(self) -> Welcome:
        welcome = Welcome(epoch=self.epoch, ticket_key=self.key, hub_clock_ms=hub_now_ms())
        welcome.lease.FromTimedelta(self.lease)
        welcome.beat_period.FromTimedelta(self.beat_period)
        return welcome

    async def _listen(self, requests: AsyncIterator[WorkerMessage]) -> None:
        async for message in requests:
            if message.HasField("beat") and self.renews:
                beat = message.beat
                lease = Lease(beat_seq=beat.seq, epoch=beat.epoch, hub_clock_ms=hub_now_ms())
                self._commands.put_nowait(HubMessage(lease=lease))
            await self._hear(message)
        self._commands.put_nowait(None)

    async def _hear(self, message: WorkerMessage) -> None:
        async with self._changed:
            self.heard.append(message)
            kind = message.WhichOneof("kind")
            inventory = message.hello.inventory if kind == "hello" else message.inventory
            if kind in ("hello", "inventory"):
                self._slots.update({slot.id: slot for slot in inventory.slots})
            self._changed.notify_all()


@asynccontextmanager
async def serving(scheduler: ScriptedScheduler) -> AsyncIterator[ScriptedScheduler]:
    server = grpc.aio.server()
    add_WorkerServiceServicer_to_server(scheduler, server)  # type: ignore[no-untyped-call]
    scheduler.port = server.add_insecure_port(f"127.0.0.1:{scheduler.port}")
    await server.start()
    try:
        yield scheduler
    finally:
        await server.stop(0)
