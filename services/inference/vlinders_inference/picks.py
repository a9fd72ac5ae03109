"""Picks: which worker serves a request, asked of the gpu-scheduler over one stream.

What one turn of the loop asks goes in one message. When the stream is silent, the table that the
scheduler sends every second does for five seconds; then there is nobody to send work to.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence, Set
from typing import Any

import grpc
from google.rpc.status_pb2 import Status

from vlinders.gpu_scheduler.v1.picks_pb2 import (
    PickAnswer,
    PickAnswers,
    PickRequest,
    PickRequests,
    StandbyTable,
    Target,
)
from vlinders.gpu_scheduler.v1.picks_pb2_grpc import PickServiceStub
from vlinders_inference.errors import NoCapacity
from vlinders_kit import logs
from vlinders_kit.errors import failure_of
from vlinders_kit.outages import Outage

PICK_SECONDS = 1.0
"""How long a pick may take before the table has to do."""

STANDBY_SECONDS = 5.0
"""How long a table does that says nothing else."""

MOST_FINISHED = 10_000
"""Ends of requests that are kept for a scheduler that is away."""

log = logs.get(__name__)

Told = Callable[[Set[int]], None]


def nobody(epochs: Set[int]) -> None:
    """For whom it is all the same."""


class Picks:
    """The picks of this replica. `run` keeps the stream open. `suspect` is told which workers the
    scheduler suspects, all of them by their epochs, whenever that changes."""

    def __init__(self, channel: grpc.aio.Channel, suspect: Told = nobody) -> None:
        self._channel = channel
        self._stub: Any = PickServiceStub(channel)  # type: ignore[no-untyped-call]
        self._suspect = suspect
        self._asked: list[PickRequest] = []
        self._finished: list[str] = []
        self._wake = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[PickAnswer]] = {}
        self.connected = False
        """Whether the scheduler can be asked now."""
        self._standby = _Standby()

    @property
    def known(self) -> bool:
        """Whether the last table still does."""
        return self._standby.holds

    async def pick(
        self,
        request_id: str,
        model: str,
        tenant_id: str,
        *,
        input_tokens: int,
        output_tokens: int,
        excluded: Sequence[str] = (),
    ) -> Target:
        """A slot for the request, outstanding there until `finished`. Raises NoCapacity.

        A second pick of the same request, with the workers that failed it excluded, moves it.
        """
        if not self.connected:
            return self._standby.pick(model, excluded)
        waiter: asyncio.Future[PickAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = waiter
        self._asked.append(
            PickRequest(
                request_id=request_id,
                model=model,
                tenant_id=tenant_id,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                excluded_worker_ids=excluded,
            )
        )
        self._wake.set()
        try:
            async with asyncio.timeout(PICK_SECONDS):
                answer = await waiter
        except (TimeoutError, _StreamLost):
            return self._standby.pick(model, excluded)
        finally:
            self._waiting.pop(request_id, None)
        if answer.HasField("status"):
            raise _full(model, answer.status)
        return answer.target

    def finished(self, request_id: str) -> None:
        """The request has ended, or never began on the worker that was picked."""
        if len(self._finished) < MOST_FINISHED:
            self._finished.append(request_id)
            self._wake.set()

    async def run(self) -> None:
        """Keeps the stream to the scheduler open, until cancelled."""
        away = Outage("gpu-scheduler", longest=2.0)
        while True:
            try:
                await self._connected(away)
                error: Exception = _StreamLost()
            except grpc.aio.AioRpcError as failure:
                error = failure
            finally:
                self.connected = False
                self._lose()
            await away.wait(error)

    async def _connected(self, away: Outage) -> None:
        await self._channel.channel_ready()
        self.connected = True
        call, first = self._stub.Pick(self._messages()), True
        try:
            async for answers in call:
                away.over()
                if first or answers.HasField("suspects"):
                    self._suspect({worker.epoch for worker in answers.suspects.workers})
                    first = False
                self._take(answers)
        finally:
            call.cancel()

    async def _messages(self) -> AsyncIterator[PickRequests]:
        while True:
            await self._wake.wait()
            self._wake.clear()
            asked, self._asked = self._asked, []
            finished, self._finished = self._finished, []
            if asked or finished:
                yield PickRequests(picks=asked, finished_request_ids=finished)

    def _take(self, answers: PickAnswers) -> None:
        if answers.HasField("standby"):
            self._standby.replace(answers.standby)
        for answer in answers.answers:
            waiter = self._waiting.get(answer.request_id)
            if waiter is not None and not waiter.done():
                waiter.set_result(answer)
            elif answer.HasField("target"):
                self.finished(answer.request_id)  # too late: it went elsewhere

    def _lose(self) -> None:
        self._asked.clear()
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(_StreamLost())


def _full(model: str, status: Status) -> NoCapacity:
    """The scheduler's refusal, with the time that it gives."""
    waits = failure_of(status).retry_after
    if waits is None:
        return NoCapacity(model=model)
    return NoCapacity(model=model, wait_seconds=math.ceil(waits.total_seconds()))


class _StreamLost(Exception):
    pass


class _Standby:
    """The scheduler's last table, with what was sent by it since."""

    def __init__(self) -> None:
        self._table = StandbyTable()
        self._until = 0.0
        self._sent: dict[tuple[str, str], int] = {}

    @property
    def holds(self) -> bool:
        return time.monotonic() < self._until

    def replace(self, table: StandbyTable) -> None:
        lifetime = table.lifetime.ToTimedelta().total_seconds() or STANDBY_SECONDS
        self._table = table
        self._until = time.monotonic() + lifetime
        self._sent.clear()

    def pick(self, model: str, excluded: Sequence[str]) -> Target:
        """The slot with the least load for its width. Raises NoCapacity."""
        best, least = None, 0.0
        if self.holds:
            for entry in self._table.entries:
                if entry.model != model or entry.target.worker_id in excluded:
                    continue
                sent = self._sent.get(_slot(entry.target), 0)
                load = (entry.outstanding + sent) / max(entry.parallel, 1)
                if best is None or load < least:
                    best, least = entry.target, load
        if best is None:
            raise NoCapacity(model=model)
        self._sent[_slot(best)] = self._sent.get(_slot(best), 0) + 1
        return best


def _slot(target: Target) -> tuple[str, str]:
    return target.worker_id, target.slot_id
