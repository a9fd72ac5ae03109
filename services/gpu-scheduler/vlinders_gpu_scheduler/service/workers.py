"""The streams of workers, and what operators see and do."""

import asyncio
import hmac
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

UNANSWERED = 2
"""Beats in a row that a worker may have sent before it hears the answer to the first."""

LARGEST = 1 << 20
"""Bytes of one message of a worker."""

Context = ServicerContext[Any, Any]


class WorkerLine:
    """The hub's end of a worker's stream. The task that makes it is the one that serves it."""

    def __init__(self, context: Context) -> None:
        self.closed = False
        self.error: Exception | None = None
        """Why it was closed, if there is something to say of that."""
        self._context = context
        self._task = asyncio.current_task()
        self._turn = asyncio.Lock()
        self._drain: float | None = None
        self._drainer: asyncio.Task[None] | None = None

    async def hear(self) -> pb.WorkerMessage | None:
        """The next message; None at the end of the stream."""
        message = await self._context.read()
        return message if isinstance(message, pb.WorkerMessage) else None

    async def say(self, **word: Any) -> None:
        async with self._turn:
            await self._context.write(pb.HubMessage(**word))

    def drain(self, seconds: float) -> None:
        """Of several that wait for a worker that does not read, it is told the last one."""
        self._drain = seconds
        if self._drainer is None:
            self._drainer = asyncio.create_task(self._say_drain(), name="drain")

    def close(self, error: Exception | None = None) -> None:
        """The first end counts."""
        if self.closed:
            return
        self.closed, self.error = True, error
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def serve(self, hub: Hub) -> None:
        """Takes in what the worker says, from its Hello to the end of the stream.

        A beat is heard, and answered, in one task and no other hop: thousands come in a second.
        """
        worker: Worker | None = None
        try:
            hello = await _hello(self)
            worker = await hub.connect(hello, self)
            await self.say(welcome=_welcome(worker, hub.clock.monotonic()))
            if worker.life.state is State.DRAINING:
                self.drain(worker.life.timers.drain)
            while not self.closed and (message := await self.hear()) is not None:
                if (lease := _take(hub, worker, self, message)) is not None:
                    await self.say(lease=lease)
        except asyncio.CancelledError:
            if self._task is None or not self.closed:
                raise  # by the worker that went, or by the end of the process
            self._task.uncancel()
        finally:
            if self._drainer is not None:
                self._drainer.cancel()
            if worker is not None:
                hub.fleet.lose(worker, self)
        if self.error is not None:
            raise self.error

    async def _say_drain(self) -> None:
        while (seconds := self._drain) is not None:
            self._drain = None
            await self.say(drain=pb.Drain(deadline=_duration(seconds)))
        self._drainer = None


class WorkerService(WorkerServiceServicer):
    def __init__(self, scheduler: Scheduler, join_token: str) -> None:
        self._scheduler = scheduler
        self._join_token = join_token.encode()

    async def Connect(self, request_iterator: object, context: Context) -> None:
        self._authenticate(context)
        await WorkerLine(context).serve(self._scheduler.hub)

    async def ListWorkers(
        self, request: pb.ListWorkersRequest, context: Context
    ) -> pb.ListWorkersResponse:
        async with self._scheduler.db.begin() as tx:
            rows, page = await paged(tx, registry.remembered(), request.page, by=Registration.id)
        hub = self._scheduler.active
        return pb.ListWorkersResponse(workers=[_shown(row, hub) for row in rows], page=page)

    async def DrainWorker(self, request: pb.DrainWorkerRequest, context: Context) -> pb.Worker:
        hub = self._scheduler.hub
        worker = hub.fleet.drain(request.worker_id)
        if worker is not None:
            return _live(worker)
        async with self._scheduler.db.begin() as tx:
            row = await tx.get(Registration, request.worker_id)
        if row is None:
            raise WorkerNotFound(worker_id=request.worker_id)
        return _shown(row, hub)

    def _authenticate(self, context: Context) -> None:
        shown = b""
        for name, value in context.invocation_metadata() or ():
            if name == JOIN_TOKEN:
                shown = value.encode() if isinstance(value, str) else value
        if not hmac.compare_digest(shown, self._join_token):
            raise InvalidJoinToken


async def _hello(line: WorkerLine) -> Hello:
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            message = await line.hear()
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


def _welcome(worker: Worker, now: float) -> pb.Welcome:
    timers = worker.life.timers
    return pb.Welcome(
        epoch=worker.epoch,
        lease=_duration(timers.lease),
        beat_period=_duration(timers.beat),
        ticket_key=worker.key,
        hub_clock_ms=hub_ms(now),
    )


def _take(hub: Hub, worker: Worker, line: WorkerLine, message: pb.WorkerMessage) -> pb.Lease | None:
    """One message, and what answers it.

    Raises StaleEpoch for what another epoch or an older stream says.
    """
    kind = message.WhichOneof("kind")
    if kind == "beat":
        beat = message.beat
        hub.fleet.require(worker, line, beat.epoch)
        deaf = beat.HasField("answered") and beat.seq - beat.answered > UNANSWERED
        longer = hub.fleet.beat(worker, deaf=deaf)
        lease = pb.Lease(
            beat_seq=beat.seq, epoch=beat.epoch, hub_clock_ms=hub_ms(hub.clock.monotonic())
        )
        if longer is not None:
            lease.lease.CopyFrom(_duration(longer.lease))
            lease.beat_period.CopyFrom(_duration(longer.beat))
        return lease
    _check(message)
    if kind == "load":
        hub.fleet.require(worker, line, message.load.epoch)
        load = message.load
        hub.picks.reported(worker, [_report(slot) for slot in load.slots], load.most_requests)
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
    return None


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
