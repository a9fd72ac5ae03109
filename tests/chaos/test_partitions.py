"""Workers whose lines to scheduler and inference break, in one direction or both, and heal."""

import asyncio
import time
from contextlib import ExitStack
from functools import partial

import psutil

from tests.chaos.fleet import a_worker, becomes, outstanding
from tests.chaos.load import Load
from tests.chaos.oracle import judge, settle
from tests.chaos.scale import scaled
from tests.chaos.stack import Chaos
from tests.platform import User, eventually
from vlinders_kit.testing.figures import Figure

SECONDS = scaled(12, 180)
"""How long lines are broken: past the end of every lease."""
HEALED = 15.0
"""Seconds after which nothing may be left of it."""
TOLD = 14.0
"""Seconds after which no client may wait any more for what a worker has begun that is cut off: its
beats are missed for 5, and it is asked whether it lives for 1.5; the rest is for a busy machine."""
SLOWEST = 25.0
"""Seconds that any request may take: a worker is given up, and another answers within three."""
BUSY = 3
"""Requests that each worker has when its lines break: one of them is in the middle of a stream."""
WORKERS = scaled(("cut off", "hears nothing"), ("cut off", "hears nothing", "not heard"))


async def test_of_a_partition_that_has_healed_nothing_is_left(
    chaos: Chaos, user: User, figure: Figure
) -> None:
    with ExitStack() as running:
        workers = [running.enter_context(a_worker(chaos, number)) for number in range(len(WORKERS))]
        fleet = dict(zip(WORKERS, workers, strict=True))
        addresses = [far.address for far in fleet.values()]
        for address in addresses:
            await becomes(chaos, address, "ONLINE")
        async with Load(chaos, user, streams=30, json=6, max_tokens=60, rate=20) as load:
            await eventually(partial(_all_busy, chaos, addresses), 30)
            with ExitStack() as parting:
                parted, running_then = time.monotonic(), load.running
                for how, far in fleet.items():
                    parting.enter_context(far.parted(how))
                await asyncio.sleep(SECONDS)
            healed = time.monotonic()
            for address in addresses:
                await becomes(chaos, address, "ONLINE", seconds=HEALED)
            back = time.monotonic() - healed
            after = time.monotonic()
            await load.until(lambda each: each.outcome == "ok" and each.invoked > after, times=40)
        ended = time.monotonic()
        await eventually(partial(_nothing_outstanding, chaos), 60)
        free = time.monotonic() - ended
        orphans = _orphans(chaos, [far.pid for far in fleet.values()])
    await settle(chaos, user)
    verdict = await judge(chaos, user, load.operations)

    condition = f"workers for {SECONDS} s: {', '.join(WORKERS)}"
    failed = [each for each in load.operations if each.outcome != "ok"]
    told = max(each.ended - parted for each in running_then if each.outcome == "failed")
    figure(
        "clients of a worker that is cut off are told", told, "s", must="≤ 7 s", condition=condition
    )
    slowest = max(each.ended - each.invoked for each in load.operations)
    figure("slowest of all requests meanwhile", slowest, "s", must="≤ 15 s", condition=condition)
    figure("workers serve again after a partition", back, "s", must="≤ 15 s", condition=condition)
    figure("slots held after the last request", free, "s", must="≤ 15 s", condition=condition)
    figure("orphan engines", len(orphans), must="0", condition=condition)
    figure("requests that ended with an error", len(failed), condition=f"of {len(load.operations)}")
    assert told < TOLD
    assert slowest < SLOWEST
    assert orphans == []
    assert free < HEALED
    assert verdict.findings == []


async def _all_busy(chaos: Chaos, addresses: list[str]) -> bool:
    running = await outstanding(chaos)
    return all(running[address] >= BUSY for address in addresses)


async def _nothing_outstanding(chaos: Chaos) -> bool:
    return not any((await outstanding(chaos)).values())


def _orphans(chaos: Chaos, workers: list[int]) -> list[int]:
    """Engines of this stack that no worker of it has started."""
    parents = {*chaos.pids("worker"), *workers, *chaos.pids("provider")}
    theirs = {
        *parents,
        *(it.pid for pid in parents for it in psutil.Process(pid).children(recursive=True)),
    }
    engines = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if f"{chaos.folder}/engines" in " ".join(process.info["cmdline"] or ())
    ]
    assert len(engines) >= len(parents)
    return [pid for pid in engines if pid not in theirs]
