"""Parts that stand still: they take what they are sent, and nobody answers."""

import asyncio
import itertools
import json
import socket
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import httpx
import pytest

from tests.chaos.beside import logged
from tests.chaos.faults import frozen
from tests.chaos.fleet import Standing, a_worker, address_of, becomes, standings
from tests.chaos.load import Load, Operation
from tests.chaos.oracle import judge, settle
from tests.chaos.scale import LONG, scaled
from tests.chaos.stack import NUMBERED, Chaos
from tests.platform import User, bearer, chat, eventually
from vlinders_kit.testing.figures import Figure

SCHEDULER_SECONDS = scaled(9, 30)
"""How long the scheduler stands still."""
TABLE_SECONDS = 5
"""How long its last table does."""
MOST_SECONDS = 40
"""How long most of the workers are silent, past the alarm: more than two leases."""
TOLD = 10.5
"""Seconds after which no client may wait any more for what a worker has begun that stands still:
half as much again as is promised."""
CROWD = 600
"""Connections to a worker at once."""
SLACK = 2.5
"""Seconds between a table's sending and its end, and what a loaded machine takes."""


async def test_a_scheduler_that_stands_still_costs_no_worker_and_no_stream(
    chaos: Chaos, user: User, figure: Figure
) -> None:
    before = await _all_online(chaos)
    numbers = itertools.count()
    long_ones: dict[str, Any] = {"max_tokens": 10 * (SCHEDULER_SECONDS + 2), "rate": 10}
    async with (
        Load(chaos, user, streams=6, numbers=numbers, **long_ones) as streams,
        Load(chaos, user, json=3, numbers=numbers, max_tokens=4, rate=100) as asked,
    ):
        await streams.until(lambda each: each.seen > 0, times=6)
        await asked.until(lambda each: each.outcome == "ok", times=6)
        running = list(streams.operations)
        with frozen(*chaos.pids("gpu-scheduler")):
            began = time.monotonic()
            await asyncio.sleep(SCHEDULER_SECONDS - 1)
            refused = await _ask(chaos, user)
            await asyncio.sleep(began + SCHEDULER_SECONDS - time.monotonic())
        thawed = time.monotonic()
        await asked.until(lambda each: each.outcome == "ok" and each.invoked > thawed)
        back = time.monotonic() - thawed
    await settle(chaos, user)
    verdict = await judge(chaos, user, [*streams.operations, *asked.operations])

    by_table = [
        each for each in asked.operations if began < each.invoked < began + TABLE_SECONDS - SLACK
    ]
    later = _between(asked.operations, began + TABLE_SECONDS + SLACK, thawed - 1)
    after = await _all_online(chaos)
    lost = [address for address in before if after[address].epoch != before[address].epoch]
    condition = f"stopped for {SCHEDULER_SECONDS} s"
    figure("workers lost by a frozen scheduler", len(lost), must="0", condition=condition)
    figure("running streams broken by it", _not_ok(running), must="0", condition=condition)
    figure("requests failed in the first seconds", _not_ok(by_table), must="0", condition=condition)
    figure("first request served after it", back, "s", condition=condition)
    assert lost == []
    assert _not_ok(running) == 0
    assert by_table
    assert _not_ok(by_table) == 0
    assert {each.status for each in later} <= {503}
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert verdict.findings == []


async def test_a_worker_that_slept_past_its_lease_comes_back_in_a_new_epoch(
    chaos: Chaos, user: User, figure: Figure
) -> None:
    address, pid = address_of(chaos, 0), chaos.pids("worker")[0]
    before = (await standings(chaos))[address]
    async with Load(chaos, user, streams=12, max_tokens=60, rate=10) as load:
        await load.until(lambda each: each.seen > 0, times=12)
        with frozen(pid, children=True):
            stopped, running = time.monotonic(), load.running
            asleep = await becomes(chaos, address, "OFFLINE")
        thawed = time.monotonic()
        awake = await becomes(chaos, address, "ONLINE")
        back = time.monotonic() - thawed
    await settle(chaos, user)
    verdict = await judge(chaos, user, load.operations)

    moves = [
        move
        for move in map(json.loads, logged(chaos, "gpu-scheduler-1", "worker_moved"))
        if move["epoch"] == before.epoch
    ]
    failed = [each for each in load.operations if each.outcome != "ok"]
    told = max(each.ended - stopped for each in failed)
    condition = "SIGSTOP of a worker and its engine until its lease was over"
    figure(
        "clients whose answer it had begun are told", told, "s", must="≤ 7 s", condition=condition
    )
    figure("requests charged twice", len(verdict.double), must="0", condition=condition)
    figure("worker serves again", back, "s", condition=condition)
    assert asleep.epoch == before.epoch < awake.epoch
    assert moves[-1]["now"] == "OFFLINE"  # nothing that it said late has moved it
    assert all(each.seen and each in running for each in failed)  # the rest went elsewhere
    assert told < TOLD
    assert verdict.findings == []


@pytest.mark.skipif(not LONG, reason="part of the long form; its rules are tests of the fleet")
async def test_when_most_workers_are_silent_at_once_none_is_given_up_and_somebody_is_called(
    chaos: Chaos, figure: Figure
) -> None:
    with ExitStack() as running:
        beside = [running.enter_context(a_worker(chaos, number)) for number in range(2)]
        for far in beside:
            await becomes(chaos, far.address, "ONLINE")
        fleet = await _all_online(chaos)
        with frozen(*chaos.pids("worker"), beside[0].pid, children=True):
            await eventually(partial(_alarmed, chaos), 60)
            await asyncio.sleep(MOST_SECONDS)
            after = await standings(chaos)
        await _all_online(chaos)

    gone = [address for address in fleet if after[address].state == "OFFLINE"]
    condition = f"{len(fleet) - 1} of {len(fleet)} stopped for {MOST_SECONDS} s more"
    figure("workers given up while most are silent", len(gone), must="0", condition=condition)
    assert gone == []


async def test_a_worker_that_is_behind_lets_callers_wait_for_it(chaos: Chaos) -> None:
    loop = asyncio.get_running_loop()
    address, _, port = chaos.stack.access["parts"]["worker"][0]["http"].partition(":")
    with ExitStack() as peers, frozen(*chaos.pids("worker")):
        for _ in range(CROWD):
            peer = peers.enter_context(socket.socket())
            peer.setblocking(False)
            async with asyncio.timeout(10):
                await loop.sock_connect(peer, (address, int(port)))


async def _alarmed(chaos: Chaos) -> bool:
    lines = logged(chaos, "gpu-scheduler-1", "many_workers_silent")
    return any(json.loads(line)["alert"] for line in lines)


async def _ask(chaos: Chaos, user: User) -> httpx.Response:
    key = (await user.key())["key"]
    body = chat(NUMBERED, max_tokens=1, user="nobody")
    return await chaos.platform.http.post("/v1/chat/completions", json=body, headers=bearer(key))


async def _all_online(chaos: Chaos) -> dict[str, Standing]:
    """Those that have not gone, once all are well."""

    async def online() -> dict[str, Standing] | None:
        found = {
            address: it for address, it in (await standings(chaos)).items() if it.state != "OFFLINE"
        }
        return found if {it.state for it in found.values()} == {"ONLINE"} else None

    return await eventually(online, 30)


def _between(operations: list[Operation], first: float, last: float) -> list[Operation]:
    return [each for each in operations if first < each.invoked < last]


def _not_ok(operations: list[Operation]) -> int:
    return sum(each.outcome != "ok" for each in operations)
