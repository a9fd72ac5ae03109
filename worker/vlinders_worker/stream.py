"""The one stream to the scheduler: who we are, that we live, what we have, what runs."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import grpc

from vlinders.gpu_scheduler.v1.workers_pb2 import (
    Beat,
    Drain,
    Goodbye,
    Hello,
    HubMessage,
    Inventory,
    Load,
    WorkerMessage,
)
from vlinders.gpu_scheduler.v1.workers_pb2_grpc import WorkerServiceStub
from vlinders_kit import logs
from vlinders_kit.clock import Clock
from vlinders_kit.pressure import Pressure
from vlinders_kit.tls import Tls, open_channel
from vlinders_worker.lease import Lease
from vlinders_worker.requests import Requests

JITTER = 0.1
"""Beats are apart by the period ± this share, so that a fleet does not beat in step."""

LOAD_SECONDS = 0.1
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0
WELCOME_SECONDS = 5.0
BEATS_UNANSWERED = 3
"""So many in a row, and another scheduler is tried, where there is one."""

OPTIONS: Sequence[tuple[str, int | str]] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

log = logs.get(__name__)

LOST = (grpc.aio.AioRpcError, asyncio.InvalidStateError)
"""What a stream that is lost raises; the second when it is written to after that."""

Call = grpc.aio.StreamStreamCall[WorkerMessage, HubMessage]


@dataclass
class Changes:
    """What has changed and has not been told. The stream's writer wakes by it."""

    load: bool = False
    inventory: bool = False
    goodbye: bool = False
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        self.woken.set()

    def load_changed(self) -> None:
        self.load = True
        self.wake()

    def inventory_changed(self) -> None:
        self.inventory = True
        self.wake()


class SchedulerStream:
    """Keeps the stream up. `hello` makes the first message; `drain` does what a Drain asks."""

    def __init__(
        self,
        targets: Sequence[str],
        *,
        join_token: str,
        tls: Tls | None = None,
        lease: Lease,
        requests: Requests,
        pressure: Pressure,
        changes: Changes,
        hello: Callable[[], Hello],
        inventory: Callable[[], Inventory],
        drain: Callable[[timedelta], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._targets = targets
        self._tls = tls
        self._metadata = (("vlinders-join-token", join_token),)
        self._lease = lease
        self._requests = requests
        self._pressure = pressure
        self._changes = changes
        self._hello = hello
        self._inventory = inventory
        self._drain = drain
        self._clock = clock
        self._welcomed = self._silent = self._left = False
        self._answered = 0
        """The last beat of the stream whose answer has come."""

    async def run(self) -> None:
        """Connects, and connects again, until `leave`."""
        wait, turn = FIRST_WAIT, 0
        while not self._left:
            self._welcomed = self._silent = False
            target = self._targets[turn % len(self._targets)]
            try:
                await self._live(target)
            except* (*LOST, TimeoutError, _Ended) as errors:
                log.warning("stream_lost", scheduler=target, why=_why(errors))
            if self._left:
                return
            if self._welcomed:
                wait = FIRST_WAIT
            if self._silent or not self._welcomed:
                turn += 1  # else it went well for a while: the same address first
            wait = min(wait * 2, LONGEST_WAIT)
            await asyncio.sleep(random.uniform(FIRST_WAIT, wait))

    def leave(self) -> None:
        """Says Goodbye and ends the stream, and `run` with it."""
        self._left = self._changes.goodbye = True
        self._changes.wake()

    async def _live(self, target: str) -> None:
        channel = open_channel(target, "vlinders.gpu_scheduler", self._tls, options=OPTIONS)
        async with channel:
            stub = WorkerServiceStub(channel)  # type: ignore[no-untyped-call]
            call: Call = stub.Connect(metadata=self._metadata)
            # From here on every change counts as untold: Hello may be made before it.
            self._changes.inventory, self._changes.load = False, True
            hello = self._hello()
            sent_at = self._clock.monotonic()
            async with asyncio.timeout(WELCOME_SECONDS):
                await call.write(WorkerMessage(hello=hello))
                first = await _next(call)
            if first is None or first.WhichOneof("kind") != "welcome":
                raise _Ended("no welcome")
            self._lease.begin(first.welcome, hello_sent_at=sent_at)
            self._welcomed, self._answered = True, 0
            log.info("registered", scheduler=target, epoch=self._lease.epoch)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(call))
                group.create_task(self._read(call, group))

    async def _read(self, call: Call, group: asyncio.TaskGroup) -> None:
        while (message := await self._heard(call)) is not None:
            self._hear(message, group)
        if not self._left:
            raise _Ended("the scheduler ended it")

    async def _heard(self, call: Call) -> HubMessage | None:
        """The next message. Where another scheduler may have followed this one, it is not waited
        for so long that the lease ends: beats have answers."""
        if len(self._targets) == 1:
            return await _next(call)
        try:
            async with asyncio.timeout(BEATS_UNANSWERED * self._lease.beat_period.total_seconds()):
                return await _next(call)
        except TimeoutError:
            self._silent = True
            raise _Ended("the scheduler is silent") from None

    def _hear(self, message: HubMessage, group: asyncio.TaskGroup) -> None:
        kind = message.WhichOneof("kind")
        if kind == "lease":
            self._lease.renew(message.lease)
            self._answered = message.lease.beat_seq
        elif kind == "drain":
            group.create_task(self._drained(message.drain))

    async def _drained(self, drain: Drain) -> None:
        log.info("drain_asked")
        await self._drain(drain.deadline.ToTimedelta())
        self.leave()

    async def _write(self, call: Call) -> None:
        """One writer, so that a beat that is due goes before everything else that waits."""
        seq, next_beat, next_load = 0, 0.0, 0.0
        changes = self._changes
        while True:
            now = self._clock.monotonic()
            if now >= next_beat:
                seq += 1
                self._lease.beat_leaves(seq)
                beat = Beat(seq=seq, epoch=self._lease.epoch, answered=self._answered)
                await call.write(WorkerMessage(beat=beat))
                period = self._lease.beat_period.total_seconds()
                next_beat = now + period * random.uniform(1 - JITTER, 1 + JITTER)
            elif changes.load and now >= next_load:
                changes.load = False
                await call.write(WorkerMessage(load=self._load()))
                next_load = now + LOAD_SECONDS
            elif changes.inventory:
                changes.inventory = False
                await call.write(WorkerMessage(inventory=self._inventory()))
            elif changes.goodbye:
                await call.write(WorkerMessage(goodbye=Goodbye(epoch=self._lease.epoch)))
                await call.done_writing()
                return
            else:
                due = min(next_beat, next_load) if changes.load else next_beat
                await self._woken(due - now)

    async def _woken(self, seconds: float) -> None:
        self._changes.woken.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0.001)):
                await self._changes.woken.wait()

    def _load(self) -> Load:
        running, ended = self._requests.running_by_slot(), self._requests.take_ended()
        slots = [
            Load.SlotLoad(
                slot_id=slot_id,
                running_request_ids=running.get(slot_id, ()),
                finished_request_ids=ended.get(slot_id, ()),
            )
            for slot_id in sorted(running.keys() | ended.keys())
        ]
        return Load(epoch=self._lease.epoch, slots=slots, most_requests=self._pressure.most)


class _Ended(Exception):
    """The scheduler ended the stream."""


async def _next(call: Call) -> HubMessage | None:
    """The next message; None at the end of the stream. Raises AioRpcError if it ended badly."""
    message = await call.read()
    return message if isinstance(message, HubMessage) else None


def _why(errors: BaseExceptionGroup) -> str:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
