"""The streams of inference replicas: what one turn of the loop asks is answered in one message."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from grpc.aio import ServicerContext

from vlinders.gpu_scheduler.v1 import picks_pb2 as pb
from vlinders.gpu_scheduler.v1.picks_pb2_grpc import PickServiceServicer
from vlinders_gpu_scheduler.errors import NoWorker
from vlinders_gpu_scheduler.hub import Hub
from vlinders_gpu_scheduler.scheduler import Scheduler
from vlinders_gpu_scheduler.service.streams import Outgoing
from vlinders_gpu_scheduler.slots import Slot
from vlinders_gpu_scheduler.tickets import LIFETIME
from vlinders_kit.errors import AppError, invalid, status_of

DOMAIN = "vlinders.gpu_scheduler"

STANDBY_SECONDS = 1.0
"""Between two standby tables."""

MOST_WAITING = 4096
"""Answers that may wait for a replica that does not read before nothing more is read from it."""

LONGEST_ID = 128
"""Characters of a request's id."""

Stream = AsyncIterator[pb.PickRequests]


class PickLine:
    """The hub's end of an inference replica's stream."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._out: Outgoing[pb.PickAnswer] = Outgoing()
        self._table: pb.StandbyTable | None = None
        self._untold = bool(hub.fleet.suspects)
        """Who is suspect has changed."""

    def answer(self, answer: pb.PickAnswer) -> None:
        self._out.put(answer)

    def stand_by(self, table: pb.StandbyTable) -> None:
        """Sends a table, in the place of one that still waits."""
        self._table = table
        self._out.stir()

    def suspect(self) -> None:
        self._untold = True
        self._out.stir()

    def close(self, error: Exception | None = None) -> None:
        self._out.close(error)

    async def room(self) -> None:
        await self._out.room(MOST_WAITING)

    async def messages(self) -> AsyncIterator[pb.PickAnswers]:
        async for answers in self._out.gathered():
            table, self._table = self._table, None
            suspects = _suspects(self._hub) if self._untold else None
            self._untold = False
            if answers or table is not None or suspects is not None:
                yield pb.PickAnswers(answers=answers, standby=table, suspects=suspects)


class PickService(PickServiceServicer):
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lines: set[PickLine] = set()

    async def Pick(
        self, request_iterator: Stream, context: ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.PickAnswers]:
        hub = self._scheduler.hub
        line = PickLine(hub)
        hub.askers.add(line)
        self._lines.add(line)
        line.stand_by(_standby(hub))
        reader = asyncio.create_task(_read(hub, request_iterator, line), name="pick reader")
        try:
            async for message in line.messages():
                yield message
        finally:
            reader.cancel()
            self._lines.discard(line)
            hub.leave(line)

    async def run(self) -> None:
        """Sends the standby tables, until cancelled."""
        while True:
            await asyncio.sleep(STANDBY_SECONDS)
            hub = self._scheduler.active
            if hub is not None and self._lines:
                table = _standby(hub)
                for line in self._lines:
                    line.stand_by(table)


async def _read(hub: Hub, requests: Stream, line: PickLine) -> None:
    try:
        async for message in requests:
            hub.picks.finished(message.finished_request_ids, hub.clock.monotonic())
            for request in message.picks:
                line.answer(answer(hub, request, line))
            await line.room()
        line.close()
    except Exception as error:  # told on the stream, which ends with it
        line.close(error)


def answer(hub: Hub, request: pb.PickRequest, line: PickLine) -> pb.PickAnswer:
    request_id = request.request_id
    if not 0 < len(request_id) <= LONGEST_ID:
        return _refusal(
            request_id, invalid("request_id", f"must have 1 to {LONGEST_ID} characters")
        )
    try:
        slot = hub.pick(
            request_id,
            request.model,
            request.excluded_worker_ids,
            line,
            declined=request.declined,
        )
    except NoWorker as error:
        return _refusal(request_id, error)
    return pb.PickAnswer(
        request_id=request_id, target=_target(hub, slot, request_id, hub.clock.monotonic())
    )


def _refusal(request_id: str, error: AppError) -> pb.PickAnswer:
    return pb.PickAnswer(request_id=request_id, status=status_of(error, DOMAIN))


def _target(hub: Hub, slot: Slot, request_id: str, now: float) -> pb.Target:
    worker = slot.worker
    return pb.Target(
        worker_id=worker.id,
        address=worker.hello.address,
        slot_id=slot.id,
        ticket=hub.ticket(slot, request_id, now),
        epoch=worker.epoch,
    )


def _suspects(hub: Hub) -> pb.Suspects:
    suspects = pb.Suspects()
    for worker in hub.fleet.suspects:
        suspects.workers.add(worker_id=worker.id, epoch=worker.epoch)
    return suspects


def _standby(hub: Hub) -> pb.StandbyTable:
    table = pb.StandbyTable()
    table.lifetime.FromTimedelta(timedelta(seconds=LIFETIME))
    now = hub.clock.monotonic()
    for model, slots in hub.picks.standby().items():
        for slot in slots:
            table.entries.add(
                model=model,
                target=_target(hub, slot, "", now),
                outstanding=slot.outstanding,
                parallel=slot.parallel,
                capacity=slot.most,
            )
    return table
