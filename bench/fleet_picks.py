"""Picks: how many slots a scheduler chooses in a second, in process and over its streams."""

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import uvloop

from bench.fleet_scheduler import SchedulerProcess, pinned, scheduler_process
from bench.fleet_streams import PickStream, a_request
from bench.fleet_workers import Description, Fleet
from bench.plan import Plan, say
from bench.tables import Table
from vlinders.gpu_scheduler.v1 import picks_pb2 as pb
from vlinders_gpu_scheduler.hub import Bounds, Hub
from vlinders_gpu_scheduler.registry import Registry
from vlinders_gpu_scheduler.service.picks import PickLine, answer
from vlinders_gpu_scheduler.tickets import TicketKeys
from vlinders_gpu_scheduler.workers import Hello, Inventory, Offer
from vlinders_kit import logs
from vlinders_kit.clock import SystemClock
from vlinders_kit.db import Database

WORKERS = (10, 1_000, 5_000)
RATES = (500, 2_000, 3_000)
"""Picks in a second, over the streams."""

REPLICAS = 4
"""Of inference, a stream each."""

BATCH = 32
"""Picks of one message, in process: what a busy replica asks in a turn of its loop."""

MODEL = "model"

COLUMNS = (
    "workers",
    "asked",
    "picks/s",
    "CPU us per pick",
    "of one core",
    "waited for it",
    "p50",
    "p99",
)


def table(plan: Plan) -> Table:
    counts = WORKERS[:2] if plan.quick else WORKERS
    with plan.alone(), pinned():
        rows = [_in_process(workers, picks=2_000 if plan.quick else 20_000) for workers in counts]
    for workers in counts:
        with plan.alone(), pinned(), scheduler_process() as scheduler:
            rows += uvloop.run(_over_streams(scheduler, workers, plan))
    return Table(
        "Picks",
        COLUMNS,
        rows,
        notes=[
            f"In process: messages of {BATCH} picks, read, chosen with their tickets, and written;"
            " a pick's time is its share of the message's.",
            f"Over streams: gRPC, {REPLICAS} inference replicas, picks at random moments whether"
            " earlier ones are answered or not, times from the moment that was meant. The"
            " scheduler has a core of its own, which the beats of the workers use as well; their"
            " share is in `of one core`, and not in the CPU of a pick. `waited for it`: how long"
            " its event loop had something to do, and gRPC's threads or a neighbour had the core.",
        ],
    )


def _in_process(workers: int, *, picks: int) -> Sequence[str]:
    logs.configure("bench", level="ERROR")
    hub = _hub(workers)
    line, times, ended = PickLine(hub), list[float](), list[str]()
    hub.askers.add(line)
    for first in range(0, picks, BATCH):
        ids = [f"gen_{number:022d}" for number in range(first, first + BATCH)]
        asked = pb.PickRequests(
            picks=[a_request(id, MODEL) for id in ids], finished_request_ids=ended
        )
        sent = asked.SerializeToString()
        began = time.process_time()
        message = pb.PickRequests.FromString(sent)
        hub.picks.finished(message.finished_request_ids, hub.clock.monotonic())
        answers = [answer(hub, request, line) for request in message.picks]
        pb.PickAnswers(answers=answers).SerializeToString()
        times.append((time.process_time() - began) / BATCH)
        if not all(each.HasField("target") for each in answers):
            raise RuntimeError("a pick found no worker")
        ended = ids
    used = sum(times) * BATCH
    times.sort()
    return (
        f"{workers:,}",
        "in process",
        f"{len(times) * BATCH / used:,.0f}",
        f"{used / len(times) / BATCH * 1e6:.0f}",
        "100%",
        "",
        f"{times[len(times) // 2] * 1e3:.3f} ms",
        f"{times[int(len(times) * 0.99)] * 1e3:.3f} ms",
    )


def _hub(workers: int) -> Hub:
    """One whose workers are online, and whose registry writes nothing."""
    clock = SystemClock()
    registry = Registry(Database("postgresql://nobody@127.0.0.1:1/none"), clock, "fleet", 1)
    hub = Hub(clock, registry, TicketKeys(bytes(32)), Bounds())
    parallel = _parallel(workers)
    for number in range(workers):
        inventory = Inventory((Offer("slot", MODEL, parallel, ready=True),), b"", b"", False)
        id = f"worker_{number:022d}"
        hello = Hello(id, "boot", "http://10.0.0.1:9200", "host", "1", 0, inventory, ())
        worker = hub.fleet.register(hello, number + 1, b"k" * 32, _NoLine())
        hub.picks.place(worker)
        hub.fleet.beat(worker)
    return hub


def _parallel(workers: int) -> int:
    """Of each slot, so that none is full."""
    return max(8, 20_000 // workers)


class _NoLine:
    """The stream of a worker that is told nothing."""

    def drain(self, seconds: float) -> None: ...

    def close(self, error: Exception | None = None) -> None: ...


async def _over_streams(
    scheduler: SchedulerProcess, workers: int, plan: Plan
) -> list[Sequence[str]]:
    fleet = Fleet(scheduler.address)
    parallel = _parallel(workers)
    await fleet.join(
        *(Description(f"worker_{n:022d}", {"slot": MODEL}, parallel) for n in range(workers))
    )
    await fleet.heard()
    cpu, began = scheduler.cpu_seconds(), time.perf_counter()
    await asyncio.sleep(plan.seconds)  # a window, as those below: in it there are beats alone
    beats = (scheduler.cpu_seconds() - cpu) / (time.perf_counter() - began)
    rows: list[Sequence[str]] = []
    for rate in RATES:
        askers = [_Asker(scheduler, rate / REPLICAS, number) for number in range(REPLICAS)]
        await asyncio.gather(*(asker.open() for asker in askers))
        await asyncio.gather(*(asker.ask(plan.warm_up) for asker in askers))
        for asker in askers:
            asker.times.clear()
        cpu, waited = scheduler.cpu_seconds(), scheduler.waited_seconds()
        began = time.perf_counter()
        await asyncio.gather(*(asker.ask(plan.seconds) for asker in askers))
        used, took = scheduler.cpu_seconds() - cpu, time.perf_counter() - began
        waited = scheduler.waited_seconds() - waited
        for asker in askers:
            asker.close()
        times = sorted(time for asker in askers for time in asker.times)
        row = (
            f"{workers:,}",
            f"{rate:,}/s over streams",
            f"{len(times) / took:,.0f}",
            f"{(used - beats * took) / len(times) * 1e6:.0f}",
            f"{used / took:.0%}",
            f"{waited / took:.0%}",
            f"{times[len(times) // 2] * 1e3:.2f} ms",
            f"{times[int(len(times) * 0.99)] * 1e3:.2f} ms",
        )
        say(f"picks: {', '.join(row)}")
        rows.append(row)
    fleet.leave()
    return rows


@dataclass
class _Asker:
    """A replica of inference that picks at random moments, `rate` times a second."""

    scheduler: SchedulerProcess
    rate: float
    number: int
    times: list[float] = field(default_factory=list)
    """Seconds from the moment that was meant to the answer."""

    def __post_init__(self) -> None:
        self._stream = PickStream(self._take)
        self._meant: dict[str, float] = {}
        self._answered = asyncio.Event()
        self._refused = 0
        self._ids = (f"gen_{self.number}_{count:018d}" for count in itertools.count())

    async def open(self) -> None:
        await self._stream.open(self.scheduler)

    async def ask(self, seconds: float) -> None:
        """Asks for so long, and returns when all is answered."""
        moment = time.perf_counter()
        until = moment + seconds
        while (moment := moment + random.expovariate(self.rate)) < until:
            if (wait := moment - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            id = next(self._ids)
            self._meant[id] = moment
            self._stream.ask(id, MODEL)
        self._answered.set()
        while self._meant:
            self._answered.clear()
            await asyncio.wait_for(self._answered.wait(), 10)
        if self._refused:
            raise RuntimeError(f"{self._refused} picks found no worker")

    def close(self) -> None:
        self._stream.close()

    def _take(self, answer: pb.PickAnswer) -> None:
        self._refused += not answer.HasField("target")
        self.times.append(time.perf_counter() - self._meant.pop(answer.request_id))
        self._stream.finish(answer.request_id)
        self._answered.set()
