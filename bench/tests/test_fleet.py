"""Workers on the wire are workers to a real scheduler, so what is measured with them is true."""

import asyncio
import os

from bench.fleet_scheduler import Buckets, lag, pinned, scheduler_process
from bench.fleet_streams import Picker
from bench.fleet_workers import Description, Fleet

BEATS = 40


async def test_workers_on_the_wire_join_beat_and_are_picked_until_they_break_off() -> None:
    cores = os.sched_getaffinity(0)
    with pinned(), scheduler_process({"BEAT": "PT0.1S", "LEASE": "PT5S"}) as scheduler:
        fleet = Fleet(scheduler.address)
        await fleet.join(*(Description(f"worker_{n}", {"slot": "model"}) for n in range(10)))
        async with asyncio.timeout(60), Picker(scheduler) as picker:
            while len(fleet.round_trips) < BEATS:
                await asyncio.sleep(0.05)
            await picker.until("model", lambda worker: worker == "worker_7", every=0.01)
            assert fleet.lost == 0
            fleet.leave()
            again = Fleet(scheduler.address)
            await again.join(Description("another", {"slot": "model"}))
            await picker.until("model", lambda worker: worker == "another", every=0.01)
        late = lag(scheduler)
        again.leave()

    assert late.bound(1.0) > 0
    assert os.sched_getaffinity(0) == cores


def test_a_share_of_a_histogram_is_told_by_its_bound() -> None:
    before = Buckets({0.1: 5, 1.0: 5, float("inf"): 5})
    after = Buckets({0.1: 5 + 98, 1.0: 5 + 100, float("inf"): 5 + 100})

    found = after.since(before)

    assert (found.bound(0.98), found.bound(0.99)) == (0.1, 1.0)
