"""Heartbeats: what a fleet of so many workers costs one scheduler process while nothing happens."""

import asyncio
import time
from collections.abc import Sequence

import uvloop

from bench.fleet_scheduler import SchedulerProcess, lag, pinned, scheduler_process
from bench.fleet_workers import Description, Fleet
from bench.plan import Plan, say
from bench.tables import Table

WORKERS = (100, 1_000, 5_000)
SETTLING = 6.0
"""Seconds after the last worker has joined: each has beaten, and rows are written."""

COLUMNS = (
    "workers, at 2 s",
    "beats/s",
    "CPU ms per 1,000 beats",
    "of one core",
    "answer p50",
    "answer p99",
    "loop late p99",
    "memory per worker",
    "joined in",
)


def table(plan: Plan) -> Table:
    rows = []
    for workers in WORKERS[:2] if plan.quick else WORKERS:
        with plan.alone(), pinned(), scheduler_process() as scheduler:
            row = uvloop.run(_measure(scheduler, workers, 3 * plan.seconds))
        say(f"beats: {', '.join(row)}")
        rows.append(row)
    return Table(
        "Heartbeats",
        COLUMNS,
        rows,
        notes=[
            "One scheduler process, on a core of its own, with its PostgreSQL; each worker has a"
            " connection and a gRPC stream, all from one process on another core.",
            "CPU is that of all threads of the scheduler, in user and system. The event loop is"
            " looked at four times a second; its lateness is told as the bound of a histogram.",
        ],
    )


async def _measure(scheduler: SchedulerProcess, workers: int, seconds: float) -> Sequence[str]:
    empty = scheduler.rss()
    fleet = Fleet(scheduler.address)
    began = time.perf_counter()
    await fleet.join(*(Description(f"worker_{n}", {"slot": "model"}) for n in range(workers)))
    joining = time.perf_counter() - began
    await asyncio.sleep(SETTLING)
    fleet.round_trips.clear()
    cpu, began, late = scheduler.cpu_seconds(), time.perf_counter(), lag(scheduler)
    await asyncio.sleep(seconds)
    used, took = scheduler.cpu_seconds() - cpu, time.perf_counter() - began
    trips = sorted(fleet.round_trips)
    if fleet.lost:
        raise RuntimeError(f"{fleet.lost} of {workers} workers were lost")
    return (
        f"{workers:,}",
        f"{len(trips) / took:,.0f}",
        f"{used / len(trips) * 1e6:.0f}",
        f"{used / took:.0%}",
        f"{trips[len(trips) // 2] * 1e3:.1f} ms",
        f"{trips[int(len(trips) * 0.99)] * 1e3:.1f} ms",
        f"≤ {lag(scheduler).since(late).bound(0.99) * 1e3:g} ms",
        f"{(scheduler.rss() - empty) / workers / 1024:.0f} KiB",
        f"{joining:.1f} s",
    )
