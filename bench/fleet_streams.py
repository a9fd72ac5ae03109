"""The streams of inference replicas at a scheduler, for the benches of the fleet."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from bench.fleet_scheduler import SchedulerProcess
from vlinders.gpu_scheduler.v1 import picks_pb2 as pb
from vlinders.gpu_scheduler.v1.picks_pb2_grpc import PickServiceStub
from vlinders_kit.callers import CallerKey, Identity
from vlinders_kit.rpc import connect

LONGEST_SECONDS = 60.0


class PickStream:
    """One stream. What a turn of the loop asks goes in one message; `answered` gets each answer."""

    def __init__(
        self, scheduler: SchedulerProcess, answered: Callable[[pb.PickAnswer], None]
    ) -> None:
        identity = Identity("inference", CallerKey(scheduler.caller_key))
        self._channel = connect(scheduler.address, "vlinders.gpu_scheduler", identity)
        stub: Any = PickServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._answered = answered
        self._asked: list[pb.PickRequest] = []
        self._ended: list[str] = []
        self._wake = asyncio.Event()
        self._call = stub.Pick(self._messages())
        self._reader = asyncio.create_task(self._read())

    def ask(self, id: str, model: str) -> None:
        self._asked.append(a_request(id, model))
        self._wake.set()

    def finish(self, id: str) -> None:
        """Told with what is asked next."""
        self._ended.append(id)

    async def close(self) -> None:
        self._call.cancel()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._channel.close()

    async def _messages(self) -> AsyncIterator[pb.PickRequests]:
        while True:
            await self._wake.wait()
            self._wake.clear()
            asked, self._asked = self._asked, []
            ended, self._ended = self._ended, []
            yield pb.PickRequests(picks=asked, finished_request_ids=ended)

    async def _read(self) -> None:
        async for message in self._call:
            for answer in message.answers:
                self._answered(answer)


class Picker:
    """A replica that looks again and again whom it would get."""

    def __init__(self, scheduler: SchedulerProcess) -> None:
        self._stream = PickStream(scheduler, self._take)
        self._waiting: dict[str, asyncio.Future[str | None]] = {}
        self._ids = (f"look_{number}" for number in itertools.count())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stream.close()

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
