"""The streams of workers, and what operators see and do."""

import asyncio
import hmac
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from grpc.aio import ServicerContext

from vlinders.gpu_scheduler.v1 import workers_pb2 as pb
from vlinders.gpu_scheduler.v1.workers_pb2_grpc import WorkerServiceServicer
from vlinders_gpu_scheduler import inventories, registry
from vlinders_gpu_scheduler.errors import HelloExpected, InvalidJoinToken, WorkerNotFound
from vlinders_gpu_scheduler.hub import Hub
from vlinders_gpu_scheduler.models import Registration
from vlinders_gpu_scheduler.picks import Report
from vlinders_gpu_scheduler.scheduler import Scheduler
from vlinders_gpu_scheduler.service.streams import Outgoing
from vlinders_gpu_scheduler.states import State
from vlinders_gpu_scheduler.tickets import hub_ms
from vlinders_gpu_scheduler.workers import Hello, Worker
from vlinders_kit.errors import invalid
from vlinders_kit.messages import to_message
from vlinders_kit.paging import paged
from vlinders_kit.validation import validate

JOIN_TOKEN = "vlinders-join-token"
"""The metadata that holds the join token."""

HELLO_SECONDS = 10.0
"""How long a stream may be open without its Hello."""

LARGEST = 1 << 20
"""Bytes of one message of a worker."""

Stream = AsyncIterator[pb.WorkerMessage]


class WorkerLine:
    """The hub's end of a worker's stream. It holds little: acknowledgements are cumulative."""

    def __init__(self) -> None:
        self._out: Outgoing[pb.HubMessage] = Outgoing()
        self._lease: pb.Lease | None = None

    def welcome(self, worker: Worker, now: float) -> None:
        timers = worker.life.timers
        word = pb.Welcome(
            epoch=worker.epoch,
            lease=_duration(timers.lease),
            beat_period=_duration(timers.beat),
            ticket_key=worker.key,
            hub_clock_ms=hub_ms(now),
        )
        self._out.put(pb.HubMessage(welcome=word))

    def acknowledge(self, beat: pb.Beat, now: float) -> None:
        self._lease = pb.Lease(beat_seq=beat.seq, epoch=beat.epoch, hub_clock_ms=hub_ms(now))
        self._out.stir()

    def drain(self, seconds: float) -> None:
        self._out.put(pb.HubMessage(drain=pb.Drain(deadline=_duration(seconds))))

    def close(self, error: Exception | None = None) -> None:
        self._out.close(error)

    async def messages(self) -> AsyncIterator[pb.HubMessage]:
        async for words in self._out.gathered():
            for word in words:
                yield word
            lease, self._lease = self._lease, None
            if lease is not None:
                yield pb.HubMessage(lease=lease)


class WorkerService(WorkerServiceServicer):
    def __init__(self, scheduler: Scheduler, join_token: str) -> None:
        self._scheduler = scheduler
        self._join_token = join_token.encode()

    async def Connect(
        self, request_iterator: Stream, context: ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.HubMessage]:
        self._authenticate(context)
        hub, line = self._scheduler.hub, WorkerLine()
        reader = asyncio.create_task(_read(hub, request_iterator, line), name="worker reader")
        try:
            async for message in line.messages():
                yield message
        finally:
            reader.cancel()

    async def ListWorkers(
        self, request: pb.ListWorkersRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListWorkersResponse:
        async with self._scheduler.db.begin() as tx:
            rows, page = await paged(tx, registry.remembered(), request.page, by=Registration.id)
        hub = self._scheduler.active
        return pb.ListWorkersResponse(workers=[_shown(row, hub) for row in rows], page=page)

    async def DrainWorker(
        self, request: pb.DrainWorkerRequest, context: ServicerContext[Any, Any]
    ) -> pb.Worker:
        hub = self._scheduler.hub
        worker = hub.fleet.drain(request.worker_id)
        if worker is not None:
            return _live(worker)
        async with self._scheduler.db.begin() as tx:
            row = await tx.get(Registration, request.worker_id)
        if row is None:
            raise WorkerNotFound(worker_id=request.worker_id)
        return _shown(row, hub)

    def _authenticate(self, context: ServicerContext[Any, Any]) -> None:
        shown = b""
        for name, value in context.invocation_metadata() or ():
            if name == JOIN_TOKEN:
                shown = value.encode() if isinstance(value, str) else value
        if not hmac.compare_digest(shown, self._join_token):
            raise InvalidJoinToken


async def _read(hub: Hub, requests: Stream, line: WorkerLine) -> None:
    """Takes in what the worker says, from its Hello to the end of the stream."""
    worker: Worker | None = None
    try:
        hello = await _hello(requests)
        worker = await hub.connect(hello, line)
        line.welcome(worker, hub.clock.monotonic())
        if worker.life.state is State.DRAINING:
            line.drain(worker.life.timers.drain)
        async for message in requests:
            _take(hub, worker, line, message)
        line.close()
    except Exception as error:  # told on the stream, which ends with it
        line.close(error)
    finally:
        if worker is not None:
            hub.fleet.lose(worker, line)


async def _hello(requests: Stream) -> Hello:
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            message = await anext(requests, None)
    except TimeoutError:
        raise HelloExpected from None
    if message is None or not message.HasField("hello"):
        raise HelloExpected
    _check(message)
    hello = message.hello
    validate(hello)
    return Hello(
        worker_id=hello.worker_id,
        boot_id=hello.boot_id,
        address=hello.address,
        host_name=hello.host_name,
        agent_version=hello.agent_version,
        last_epoch=hello.last_epoch,
        inventory=inventories.read(hello.inventory),
        running=hello.running_request_ids,
    )


def _take(hub: Hub, worker: Worker, line: WorkerLine, message: pb.WorkerMessage) -> None:
    """One message. Raises StaleEpoch for what another epoch or an older stream says."""
    kind = message.WhichOneof("kind")
    if kind == "beat":
        beat = message.beat
        hub.fleet.require(worker, line, beat.epoch)
        hub.fleet.beat(worker)
        line.acknowledge(beat, hub.clock.monotonic())
        return
    _check(message)
    if kind == "load":
        hub.fleet.require(worker, line, message.load.epoch)
        hub.picks.reported(worker, [_report(slot) for slot in message.load.slots])
    elif kind == "inventory":
        hub.fleet.require(worker, line, worker.epoch)
        validate(message.inventory)
        hub.take_inventory(worker, inventories.read(message.inventory))
    elif kind == "goodbye":
        hub.fleet.require(worker, line, message.goodbye.epoch)
        hub.fleet.leave(worker)
    elif kind == "hello":
        raise HelloExpected
    # What a newer agent says beyond this is not for this hub.


def _check(message: pb.WorkerMessage) -> None:
    if message.ByteSize() > LARGEST:
        raise invalid("body", f"must be at most {LARGEST} bytes")


def _report(load: pb.Load.SlotLoad) -> Report:
    return Report(load.slot_id, frozenset(load.running_request_ids), load.finished_request_ids)


def _shown(row: Registration, hub: Hub | None) -> pb.Worker:
    """A worker as it is now where this replica is active, else as it was written last."""
    worker = None if hub is None else hub.fleet.workers.get(row.id)
    if worker is not None:
        return _live(worker)
    return to_message(
        pb.Worker,
        row,
        state=_state(row.state if hub is None else State.OFFLINE),
        inventory=pb.Inventory.FromString(row.inventory),
        running_requests=None if hub is None else 0,
    )


def _live(worker: Worker) -> pb.Worker:
    return to_message(
        pb.Worker,
        worker.hello,
        id=worker.id,
        state=_state(worker.life.state),
        epoch=worker.epoch,
        inventory=pb.Inventory.FromString(worker.inventory.body),
        running_requests=worker.running,
        state_since=worker.since,
        pretended=worker.inventory.pretended,
    )


def _state(name: str) -> int:
    return pb.Worker.State.Value(f"STATE_{name}")


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration
