"""Lost workers: how long a worker that was killed or frozen is still chosen, and still leased."""

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import uvloop

from bench.fleet_scheduler import SchedulerProcess, scheduler_process
from bench.fleet_streams import Picker
from bench.fleet_workers import Description, Fleet
from bench.plan import Plan, say
from bench.tables import Table

TRIALS = 20
AROUND = 120
"""Workers beside those that are lost: a fifth of all at once would be an alarm."""

GRACE = 32.0
"""Seconds in which a new scheduler ends nobody."""

EVERY = 0.005
"""Seconds between two looks."""


def table(plan: Plan) -> Table:
    trials = 3 if plan.quick else TRIALS
    with plan.alone(), scheduler_process() as scheduler:
        found = uvloop.run(_measure(scheduler, trials))
    rows = [_row(name, must, times) for (name, must), times in found.items()]
    for row in rows:
        say(f"detection: {', '.join(row)}")
    return Table(
        "Lost workers",
        ("from … to …", "trials", "must", "p50", "p99", "max"),
        rows,
        notes=[
            f"Each a process of its own, beside {AROUND} that live; another worker has the same"
            " model. Told by picks, one every 5 ms, as an inference replica makes them: not chosen"
            " any more, and for a model that nobody else has, not even as a last resort.",
            "The frozen ones are frozen within two seconds of each other, and watched together.",
        ],
    )


def _row(name: str, must: str, times: Sequence[float]) -> Sequence[str]:
    times = sorted(times)
    median, nearly = times[len(times) // 2], times[min(len(times) - 1, int(len(times) * 0.99))]
    return (name, str(len(times)), must, *(f"{at:.2f} s" for at in (median, nearly, times[-1])))


async def _measure(scheduler: SchedulerProcess, trials: int) -> dict[tuple[str, str], list[float]]:
    began = time.perf_counter()
    fleet = Fleet(scheduler.address)
    around = [Description(f"around_{n}", {"slot": "around"}) for n in range(AROUND)]
    spare = [
        Description(f"spare_{kind}_{n}", {"slot": f"{kind}_{n}"}, parallel=1)
        for kind in ("killed", "frozen")
        for n in range(trials)
    ]
    await fleet.join(*around, *spare)
    async with Picker(scheduler) as picker:
        killed = [await _killed(scheduler, picker, number) for number in range(trials)]
        async with _victims(scheduler, "frozen", trials) as victims:
            await asyncio.sleep(max(0.0, began + GRACE - time.perf_counter()))
            both = await asyncio.gather(*(_frozen(picker, victim) for victim in victims))
    return {
        ("kill -9 to unroutable", "≤ 1 s"): killed,
        ("frozen to unroutable", "≤ 6 s"): [suspect for suspect, _ in both],
        ("frozen to offline", "≤ 20 s"): [offline for _, offline in both],
    }


@dataclass(frozen=True)
class _Victim:
    """A worker in a process, which offers a model with another worker, and one alone."""

    id: str
    process: subprocess.Popen[bytes]

    @property
    def shared(self) -> str:
        return self.id

    @property
    def alone(self) -> str:
        return f"{self.id}_alone"


async def _killed(scheduler: SchedulerProcess, picker: Picker, number: int) -> float:
    async with _victim(scheduler, f"killed_{number}") as victim:
        await picker.until(victim.shared, lambda worker: worker == victim.id, every=EVERY)
        began = time.perf_counter()
        victim.process.kill()
        await picker.until(victim.shared, lambda worker: worker != victim.id, every=EVERY)
        return time.perf_counter() - began


async def _frozen(picker: Picker, victim: _Victim) -> tuple[float, float]:
    await picker.until(victim.shared, lambda worker: worker == victim.id, every=EVERY)
    await asyncio.sleep(random.uniform(0, 2))
    began = time.perf_counter()
    victim.process.send_signal(signal.SIGSTOP)
    await picker.until(victim.shared, lambda worker: worker != victim.id, every=EVERY)
    suspect = time.perf_counter() - began
    await picker.until(victim.alone, lambda worker: worker is None, every=10 * EVERY)
    return suspect, time.perf_counter() - began


@asynccontextmanager
async def _victims(
    scheduler: SchedulerProcess, kind: str, trials: int
) -> AsyncIterator[list[_Victim]]:
    async with AsyncExitStack() as stack:
        names = (f"{kind}_{number}" for number in range(trials))
        yield [await stack.enter_async_context(_victim(scheduler, name)) for name in names]


@asynccontextmanager
async def _victim(scheduler: SchedulerProcess, id: str) -> AsyncIterator[_Victim]:
    victim = await asyncio.to_thread(_start, scheduler, id)
    try:
        yield victim
    finally:
        _end(victim)


def _start(scheduler: SchedulerProcess, id: str) -> _Victim:
    program = (sys.executable, "-m", "bench.fleet_workers", scheduler.address, id)
    slots = (f"shared={id}", f"alone={id}_alone")
    # Not by the event loop: that forks, which gRPC's threads do not bear.
    process = subprocess.Popen((*program, *slots), stdout=subprocess.PIPE)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise RuntimeError(f"{id} did not join")
    return _Victim(id, process)


def _end(victim: _Victim) -> None:
    victim.process.kill()
    victim.process.communicate()
