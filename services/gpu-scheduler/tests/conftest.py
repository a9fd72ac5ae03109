"""What the tests of the scheduler share: workers by script, and time that passes when told."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from vlinders.gpu_scheduler.v1 import workers_pb2 as pb
from vlinders.gpu_scheduler.v1.picks_pb2_grpc import add_PickServiceServicer_to_server
from vlinders.gpu_scheduler.v1.workers_pb2_grpc import (
    WorkerServiceStub,
    add_WorkerServiceServicer_to_server,
)
from vlinders_gpu_scheduler.doubt import TICK
from vlinders_gpu_scheduler.hub import Bounds
from vlinders_gpu_scheduler.scheduler import Scheduler, Standing
from vlinders_gpu_scheduler.service import PickService, WorkerService
from vlinders_gpu_scheduler.tickets import TicketKeys
from vlinders_gpu_scheduler.workers import Hello, Inventory, Offer
from vlinders_kit.clock import ManualClock
from vlinders_kit.db import Database
from vlinders_kit.testing import Served, named, served

package = named("vlinders_gpu_scheduler")

JOIN_TOKEN = "a join token for every test run"
KEYS = TicketKeys(b"the secret of every test's tickets")
CHAT = Offer("tiny-chat", "tiny", parallel=4, ready=True)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def hello() -> Callable[..., Hello]:
    """A Hello as the domain knows it, of a worker with one slot unless told otherwise."""

    def make(worker_id: str = "worker_1", *offers: Offer, **over: Any) -> Hello:
        inventory = Inventory(offers or (CHAT,), body=b"", lasting=b"", pretended=False)
        usual = {
            "boot_id": "boot_1",
            "address": "http://10.0.0.7:9200",
            "host_name": "gpu-7",
            "agent_version": "1",
            "last_epoch": 0,
            "running": (),
        }
        return Hello(worker_id=worker_id, inventory=inventory, **{**usual, **over})

    return make


class Line:
    """A worker's stream, of which only the end is looked at."""

    def __init__(self) -> None:
        self.closed = False
        self.error: Exception | None = None
        self.drained_for: float | None = None

    def drain(self, seconds: float) -> None:
        self.drained_for = seconds

    def close(self, error: Exception | None = None) -> None:
        self.closed, self.error = True, error


@pytest.fixture(scope="session")
def line() -> type[Line]:
    return Line


class Agent:
    """A worker on a real stream, which says and does what the test tells it."""

    def __init__(self, channel: grpc.aio.Channel, token: str = JOIN_TOKEN) -> None:
        metadata = (("vlinders-join-token", token),)
        self.call = WorkerServiceStub(channel).Connect(metadata=metadata)
        self.welcome = pb.Welcome()
        self._seq = 0

    async def say(self, **kind: Any) -> None:
        await self.call.write(pb.WorkerMessage(**kind))

    async def hear(self) -> pb.HubMessage:
        message = await self.call.read()
        assert isinstance(message, pb.HubMessage), await self.call.code()
        return message

    async def hello(self, worker_id: str = "worker_1", **over: Any) -> "Agent":
        usual = {
            "boot_id": "boot_1",
            "address": "http://10.0.0.7:9200",
            "host_name": "gpu-7",
            "inventory": inventory(),
        }
        await self.say(hello=pb.Hello(worker_id=worker_id, **{**usual, **over}))
        self.welcome = (await self.hear()).welcome
        return self

    async def beat(self, **over: int) -> pb.Lease:
        """Beats, and answers with what acknowledges it."""
        self._seq += 1
        await self.say(beat=pb.Beat(seq=self._seq, epoch=self.welcome.epoch, **over))
        return (await self.hear()).lease

    async def report(
        self,
        *running: str,
        finished: tuple[str, ...] = (),
        slot: str = "tiny-chat",
        most: int = 0,
    ) -> None:
        """Says what runs, and returns when the hub has heard it."""
        load = pb.Load.SlotLoad(
            slot_id=slot, running_request_ids=running, finished_request_ids=finished
        )
        told = pb.Load(epoch=self.welcome.epoch, slots=[load], most_requests=most)
        await self.say(load=told)
        await self.beat()

    async def failure(self) -> grpc.aio.AioRpcError:
        """How the stream ended."""
        try:
            while await self.call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError("the stream ended in order")


def inventory(*slots: pb.Slot, **over: Any) -> pb.Inventory:
    chat = pb.Slot(
        id="tiny-chat", model="tiny", engine="llama.cpp", state=pb.Slot.STATE_READY, parallel=4
    )
    return pb.Inventory(slots=slots or [chat], **over)


class Platform:
    """A scheduler that serves, and workers that come to it."""

    def __init__(
        self, scheduler: Scheduler, server: Served, clock: ManualClock, standings: list[Standing]
    ) -> None:
        self.scheduler = scheduler
        self.standings = standings
        """What health was told, from first to last."""
        self.server = server
        self.clock = clock
        self._channels: list[grpc.aio.Channel] = []

    def agent(self, token: str = JOIN_TOKEN) -> Agent:
        channel = grpc.aio.insecure_channel(self.server.address)
        self._channels.append(channel)
        return Agent(channel, token)

    async def worker(self, worker_id: str = "worker_1", **over: Any) -> Agent:
        """An agent whose worker is online."""
        agent = await self.agent().hello(worker_id, **over)
        await agent.beat()
        return agent

    def state(self, worker_id: str = "worker_1") -> str | None:
        worker = self.scheduler.hub.fleet.workers.get(worker_id)
        return None if worker is None else str(worker.life.state)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK)):
            self.clock.advance(TICK)
            self.scheduler.hub.tick()

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


Start = Callable[..., Any]


@pytest.fixture
def start(db: Database, clock: ManualClock) -> Start:
    """Starts schedulers on one database: `async with start() as platform`."""

    @asynccontextmanager
    async def starting(holder: str = "a", *, active: bool = True) -> AsyncIterator[Platform]:
        standings: list[Standing] = []

        async def tell(standing: Standing) -> None:
            standings.append(standing)

        scheduler = Scheduler(db, clock, KEYS, Bounds(), holder=holder, told=tell)
        picks = PickService(scheduler)
        workers = WorkerService(scheduler, JOIN_TOKEN)
        domain = "vlinders.gpu_scheduler"
        async with (
            running(scheduler.run, picks.run),
            served(
                domain,
                (f"{domain}.v1.WorkerService", add_WorkerServiceServicer_to_server, workers),
                (f"{domain}.v1.PickService", add_PickServiceServicer_to_server, picks),
            ) as server,
        ):
            platform = Platform(scheduler, server, clock, standings)
            if active:
                await until(lambda: scheduler.active is not None)
            try:
                yield platform
            finally:
                await platform.close()
                if scheduler.active is not None:
                    await scheduler.active.registry.settled()

    return starting


@pytest.fixture
async def platform(start: Start) -> AsyncIterator[Platform]:
    async with start() as platform:
        yield platform


@asynccontextmanager
async def running(*works: Callable[[], Any]) -> AsyncIterator[None]:
    import asyncio

    tasks = [asyncio.create_task(work()) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    """Returns once `holds` does; the test's own timeout is its bound."""
    import asyncio

    while not holds():
        await asyncio.sleep(0.005)


@pytest.fixture(name="until")
def _until() -> Callable[[Callable[[], bool]], Any]:
    return until
