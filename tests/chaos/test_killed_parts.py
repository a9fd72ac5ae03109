"""Parts that die under load come back by themselves, and nobody loses money by it or pays twice."""

import asyncio
import random
import time
from collections import Counter

import pytest

from tests.chaos.faults import kill
from tests.chaos.load import Load, Operation
from tests.chaos.oracle import judge, settle
from tests.chaos.scale import LONG
from tests.chaos.stack import Chaos
from tests.platform import User, eventually
from vlinders_kit.testing.figures import Figure

PARTS = (
    "gateway",
    "inference",
    "billing",
    "auth",
    "gpu-scheduler",
    "worker",
    "engine",
    "postgres",
    "valkey",
    "kafka",
)
SHORT = ("gateway", "inference", "billing", "worker", "postgres")
SEQUENCES = [(part,) * 5 for part in PARTS] if LONG else [SHORT]
"""What is killed one after the other, in one run of a test."""
CALLERS = 30
UNHARMED = ("auth", "valkey", "kafka")
"""Parts without which every request that comes meanwhile is served."""
BACK_SECONDS = 90.0
SEED = 9


@pytest.mark.parametrize(
    "sequence", SEQUENCES, ids=lambda sequence: "-".join(dict.fromkeys(sequence))
)
async def test_what_is_killed_comes_back_and_no_charge_is_lost_or_made_twice(
    chaos: Chaos, user: User, figure: Figure, sequence: tuple[str, ...]
) -> None:
    chance, back = random.Random(SEED), []
    async with Load(chaos, user, streams=20, json=10, max_tokens=40, rate=40) as load:
        for part in (part for part in sequence if part in chaos.parts):
            await load.until(_good, times=CALLERS)
            await asyncio.sleep(chance.random())  # at any moment of what runs
            back.append(await _killed(chaos, load, part))
        whole = time.monotonic()
        await load.until(lambda each: each.invoked > whole and each.ended > 0, times=2 * CALLERS)
    await settle(chaos, user)
    verdict = await judge(chaos, user, load.operations)

    ends = Counter(each.outcome for each in load.operations)
    late = [each for each in load.operations if each.invoked > whole and not _good(each)]
    said = Counter((each.status, each.said[:120]) for each in load.operations if each.said)
    what = " and ".join(dict.fromkeys(sequence)) if LONG else "a part"
    under = f"{len(back)} kills, {len(load.operations)} requests"
    figure(f"{what} killed: charges lost", len(verdict.lost), must="0", condition=under)
    figure(f"{what} killed: charged twice", len(verdict.double), must="0", condition=under)
    figure(f"{what} killed: not explained", len(verdict.unexplained), must="0", condition=under)
    figure(f"{what} killed: broken requests", ends["failed"] + ends["unknown"], condition=under)
    figure(f"{what} killed: works again", max(back), "s", condition=f"slowest of {under}")
    assert verdict.findings == []
    assert late == []  # no process of any part is left that does not work
    if "gateway" not in sequence:  # nobody else's death leaves a client without a word
        assert ends["unknown"] == 0, said
    if set(sequence) <= set(UNHARMED):
        assert ends["failed"] == 0, said


async def _killed(chaos: Chaos, load: Load, part: str) -> float:
    """Kills a process of the part; the seconds until all is there again, and calls succeed."""
    pid = random.Random(SEED).choice(chaos.pids(part))
    began = time.monotonic()
    kill(pid)

    async def is_back() -> bool:
        return pid not in chaos.pids(part) and await chaos.serves()

    await eventually(is_back, BACK_SECONDS)
    there = time.monotonic()
    await load.until(lambda each: _good(each) and each.invoked > there, times=CALLERS)
    return time.monotonic() - began


def _good(operation: Operation) -> bool:
    return operation.outcome == "ok"
