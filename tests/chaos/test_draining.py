"""A part that is told to end lets what runs come to its end, takes nothing new, and is gone."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable

import psutil
import pytest

from tests.chaos.load import Call, Operation
from tests.chaos.oracle import judge, settle
from tests.chaos.scale import scaled
from tests.chaos.stack import NUMBERED, Chaos
from tests.platform import User, eventually
from vlinders_kit.testing.figures import Figure

STREAMS = 200
SECONDS = scaled(5, 20)
"""How long each stream goes on: longer than the rest takes, shorter than a drain."""
RATE = 10
READY_SECONDS = 1.0 * 3
"""With a margin for a busy machine."""
EXIT_SECONDS = 35.0


@pytest.mark.parametrize("part", ["gateway", "inference", "worker"])
@pytest.mark.parametrize("which", scaled([0], [0, 1]))
async def test_no_stream_breaks_when_a_part_is_told_to_end(
    chaos: Chaos, user: User, figure: Figure, part: str, which: int
) -> None:
    pid = chaos.pids(part)[which]
    serves = chaos.asks(part)[which]
    operations = [Operation(number, NUMBERED, stream=True) for number in range(STREAMS)]
    key = (await user.key())["key"]

    async def stream(operation: Operation) -> None:
        call = await Call.open(
            chaos.stack.url, key, operation, max_tokens=SECONDS * RATE, rate=RATE
        )
        await call.whole()

    async with asyncio.TaskGroup() as group:
        for operation in operations:
            group.create_task(stream(operation))
        await eventually(_all(lambda: all(each.seen for each in operations)), 60)
        told = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        await eventually(_not(serves), 30)
        unready = time.monotonic() - told
        running = sum(not each.ended for each in operations)
        after = await _call(chaos, key)
    await eventually(_all(lambda: not psutil.pid_exists(pid)), 60)
    gone = time.monotonic() - told
    await settle(chaos, user)
    verdict = await judge(chaos, user, [*operations, after])

    broken = [each for each in operations if each.outcome != "ok"]
    under = f"{running} of {STREAMS} streams open when {part} {which + 1} was told to end"
    figure(f"streams broken by the drain ({part})", len(broken), must="0", condition=under)
    figure(f"not ready after SIGTERM ({part})", unready, "s", must="≤ 1 s", condition=under)
    figure(f"gone after SIGTERM ({part})", gone, "s", must="≤ 35 s", condition=under)
    assert [(each.outcome, each.said) for each in broken] == []
    assert after.outcome == "ok"
    assert unready <= READY_SECONDS
    assert gone <= EXIT_SECONDS
    assert verdict.findings == []


async def _call(chaos: Chaos, key: str) -> Operation:
    """One more call, which has to find who still takes calls."""
    operation = Operation(STREAMS, NUMBERED, stream=False)
    call = await Call.open(chaos.stack.url, key, operation, max_tokens=5)
    await call.whole()
    return operation


def _all(look: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def looked() -> bool:
        return look()

    return looked


def _not(ask: Callable[[], Awaitable[bool]]) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        return not await ask()

    return asked
