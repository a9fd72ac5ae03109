"""Picks: which worker serves a request, asked of the gpu-scheduler over one stream.

What one turn of the loop asks goes in one message. When the stream is silent, the table that the
scheduler sends every second does for five seconds; then there is nobody to send work to.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence, Set
from typing import Any

import grpc
from google.rpc.status_pb2 import Status

from vlinders.gpu_scheduler.v1.picks_pb2 import (
    PickAnswer,
    PickAnswers,
    PickRequest,
    PickRequests,
    Target,
)
from vlinders.gpu_scheduler.v1.picks_pb2_grpc import PickServiceStub
from vlinders_inference.errors import NoCapacity
from vlinders_inference.standby import Standby
from vlinders_kit import logs
from vlinders_kit.errors import failure_of
from vlinders_kit.outages import Outage

PICK_SECONDS = 1.0
"""How long a pick may take before the table has to do."""

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
        self._standby = Standby()

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
        declined: bool = False,
    ) -> Target:
        """A slot for the request, outstanding there until `finished`. Raises NoCapacity.

        A second pick of the same request, with the workers that failed it excluded, moves it; the
        last of them may have `declined`.
        """
        self._standby.end(request_id)
        request = PickRequest(
            request_id=request_id,
            model=model,
            tenant_id=tenant_id,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            excluded_worker_ids=excluded,
            declined=declined,
        )
        answer = await self._ask(request) if self.connected else None
        if answer is None:
            target = self._standby.pick(model, excluded)
        elif answer.HasField("status"):
            raise _full(model, answer.status)
        else:
            target = answer.target
        self._standby.begin(request_id, target)
        return target

    def finished(self, request_id: str) -> None:
        """The request has ended, or never began on the worker that was picked."""
        self._standby.end(request_id)
        self._tell_finished(request_id)

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

    async def _ask(self, request: PickRequest) -> PickAnswer | None:
        """What the scheduler says; None if it is silent."""
        waiter: asyncio.Future[PickAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[request.request_id] = waiter
        self._asked.append(request)
        self._wake.set()
        try:
            async with asyncio.timeout(PICK_SECONDS):
                return await waiter
        except (TimeoutError, _StreamLost):
            return None
        finally:
            self._waiting.pop(request.request_id, None)

    def _tell_finished(self, request_id: str) -> None:
        if len(self._finished) < MOST_FINISHED:
            self._finished.append(request_id)
            self._wake.set()

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
                self._tell_finished(answer.request_id)  # too late: it went elsewhere

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
