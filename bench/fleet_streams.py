"""The streams of inference replicas at a scheduler, for the benches of the fleet."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Self

from bench.fleet_scheduler import SchedulerProcess
from bench.fleet_wire import Wire
from vlinders.gpu_scheduler.v1 import picks_pb2 as pb
from vlinders_kit.callers import CallerKey, Identity

PICK = "/vlinders.gpu_scheduler.v1.PickService/Pick"

LONGEST_SECONDS = 60.0


class PickStream:
    """One stream. What a turn of the loop asks goes in one message; `answered` gets each answer."""

    def __init__(self, answered: Callable[[pb.PickAnswer], None]) -> None:
        self._answered = answered
        self._asked: list[pb.PickRequest] = []
        self._ended: list[str] = []
        self._wire: Wire | None = None

    async def open(self, scheduler: SchedulerProcess) -> None:
        caller = Identity("inference", CallerKey(scheduler.caller_key))
        metadata = caller.metadata("vlinders.gpu_scheduler")
        _, self._wire = await asyncio.get_running_loop().create_connection(
            lambda: Wire(PICK, metadata, self._heard, _gone), "127.0.0.1", scheduler.port
        )

    def ask(self, id: str, model: str) -> None:
        if not self._asked:
            asyncio.get_running_loop().call_soon(self._send)
        self._asked.append(a_request(id, model))

    def finish(self, id: str) -> None:
        """Told with what is asked next."""
        self._ended.append(id)

    def close(self) -> None:
        if self._wire is not None:
            self._wire.break_off()

    def _send(self) -> None:
        asked, self._asked = self._asked, []
        ended, self._ended = self._ended, []
        if self._wire is not None:
            message = pb.PickRequests(picks=asked, finished_request_ids=ended)
            self._wire.say(message.SerializeToString())

    def _heard(self, _wire: Wire, body: bytes) -> None:
        for answer in pb.PickAnswers.FromString(body).answers:
            self._answered(answer)


def _gone(_wire: Wire) -> None:
    """Whoever waits for an answer has a limit of his own."""


class Picker:
    """A replica that looks again and again whom it would get."""

    def __init__(self, scheduler: SchedulerProcess) -> None:
        self._scheduler = scheduler
        self._stream = PickStream(self._take)
        self._waiting: dict[str, asyncio.Future[str | None]] = {}
        self._ids = (f"look_{number}" for number in itertools.count())

    async def __aenter__(self) -> Self:
        await self._stream.open(self._scheduler)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stream.close()

    async def until(
        self, model: str, wanted: Callable[[str | None], bool], *, every: float
    ) -> None:
        """Returns once the worker that is chosen for the model, or None, is as `wanted`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LONGEST_SECONDS
        for look in itertools.count():
            if wanted(await self._pick(model)):
                return
            if loop.time() > deadline:
                raise TimeoutError(f"{model}: not as wanted after {look} looks")
            await asyncio.sleep(every)

    async def _pick(self, model: str) -> str | None:
        id = next(self._ids)
        self._waiting[id] = asyncio.get_running_loop().create_future()
        self._stream.ask(id, model)
        try:
            return await self._waiting[id]
        finally:
            self._stream.finish(id)
            del self._waiting[id]

    def _take(self, answer: pb.PickAnswer) -> None:
        waiter = self._waiting.get(answer.request_id)
        if waiter is not None and not waiter.done():
            waiter.set_result(answer.target.worker_id or None)


def a_request(id: str, model: str) -> pb.PickRequest:
    return pb.PickRequest(
        request_id=id,
        model=model,
        tenant_id="ten_0123456789012345678901",
        input_tokens=100,
        output_tokens=100,
    )
