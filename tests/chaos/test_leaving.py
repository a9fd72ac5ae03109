"""Clients that leave, in every way and at any moment, pay for what was produced and no more."""

import asyncio
import random
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Literal

import pytest

from tests.chaos.load import Call, Operation
from tests.chaos.oracle import judge, settle
from tests.chaos.scale import LONG, scaled
from tests.chaos.stack import NUMBERED, PROVIDED, Chaos
from tests.platform import User, eventually
from vlinders_kit.testing.figures import Figure

ABORTS = scaled(40, 1_000)
AT_ONCE = 40
RATE = 100
"""Tokens a second of each answer."""
ENDLESS = 5_000
MOMENTS = (0, 0, 1, 1, 5, 50)
"""Tokens after which a client that streams leaves; 0: without waiting for the head."""
SEED = 3
BUSY = 3
"""How much longer things may take where others use the machine, too, before a test fails."""
DARK = "127.66.0"
"""The network of clients that vanish."""
SILENCE = 60
"""Seconds after which a gateway takes a client to have vanished, by its default."""

Way = Literal["FIN", "RST"]


@pytest.mark.parametrize("model", [NUMBERED, PROVIDED])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_who_leaves_pays_what_the_engine_produced(
    chaos: Chaos, user: User, figure: Figure, model: str, *, stream: bool
) -> None:
    key = (await user.key())["key"]
    chance = random.Random(f"{SEED} {model} {stream}")
    numbers = count()
    operations: list[Operation] = []
    left_at: dict[str, float] = {}

    async def leave() -> None:
        operation = Operation(next(numbers), model, stream=stream, left=True)
        operations.append(operation)
        after, way = chance.choice(MOMENTS), chance.choice(("FIN", "RST"))
        pause = chance.random() * 0.3
        call = await Call.open(chaos.stack.url, key, operation, max_tokens=ENDLESS, rate=RATE)
        await _read(call, after if stream else 0, pause)
        left_at[operation.name] = time.time()
        (call.close if way == "FIN" else call.reset)()

    await _at_once(leave, ABORTS // 4)
    last = time.time()
    await _nothing_held(user)
    held = time.time() - last
    await settle(chaos, user)
    verdict = await judge(chaos, user, operations)

    what = f"{model}, {'streams' if stream else 'whole answers'}"
    figure(
        f"charged ≠ produced ({what})",
        len(verdict.findings),
        must="0",
        condition=f"{len(operations)} clients that left",
    )
    stops = sorted(
        max(0.0, chaos.last_token(name) - at)
        for name, at in left_at.items()
        if chaos.produced(name)
    )
    figure(
        f"engine stops after its client left ({what})",
        stops[-1],
        "s",
        must="≤ 1 s",
        condition=f"slowest of {len(stops)}",
    )
    figure(f"nothing held after the last left ({what})", held, "s", must="≤ 5 s")
    assert verdict.findings == []
    assert stops[-1] <= 1.0 * BUSY
    assert held <= 5.0 * BUSY


@pytest.mark.skipif(not LONG, reason="takes a minute of silence: `make chaos`")
async def test_who_vanishes_without_a_word_pays_until_it_is_noticed(
    chaos: Chaos, user: User, figure: Figure, dark: Callable[[], AbstractContextManager[None]]
) -> None:
    key = (await user.key())["key"]
    operations = [Operation(n, NUMBERED, stream=n % 2 == 0, left=True) for n in range(40)]

    async def begin(operation: Operation) -> Call:
        at = (f"{DARK}.{operation.number + 1}", 0)
        call = await Call.open(
            chaos.stack.url, key, operation, local_addr=at, max_tokens=40_000, rate=RATE // 2
        )
        if operation.stream:
            await _read(call, 5, 0)
        return call

    calls = await asyncio.gather(*map(begin, operations))
    await eventually(_every(lambda: all(chaos.produced(each.name) for each in operations)), 30)
    with dark():
        vanished = time.time()
        await _nothing_held(user, SILENCE + 60)
        noticed = time.time() - vanished
        stops = max(chaos.last_token(each.name) for each in operations) - vanished
    for call in calls:
        call.reset()
    await settle(chaos, user)
    verdict = await judge(chaos, user, operations)

    of = f"{len(operations)} clients whose network went dark, half of them streaming"
    figure("charged ≠ produced (silence)", len(verdict.findings), must="0", condition=of)
    figure("engine stops after silence", stops, "s", must=f"≤ {SILENCE + 5} s", condition=of)
    figure("nothing held after silence", noticed, "s", condition=of)
    assert verdict.findings == []
    assert stops <= SILENCE + 5 * BUSY


@pytest.fixture
def dark() -> Callable[[], AbstractContextManager[None]]:
    """A block in which nothing reaches the clients of DARK, nor comes from them."""
    rules = [["INPUT", way, f"{DARK}.0/24", "-j", "DROP"] for way in ("-s", "-d")]

    def tell(verb: str, rule: list[str]) -> int:
        command = ["iptables", "-w", verb, *rule]
        return subprocess.run(command, check=False, capture_output=True).returncode

    @contextmanager
    def darkness() -> Iterator[None]:
        for rule in rules:
            tell("-I", rule)
        try:
            yield
        finally:
            for rule in rules:
                tell("-D", rule)

    if shutil.which("iptables") is None or tell("-C", rules[0]) not in (0, 1):
        pytest.skip("needs iptables, and the right to use it")
    return darkness


def _every(look: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def looked() -> bool:
        return look()

    return looked


async def _read(call: Call, tokens: int, pause: float) -> None:
    """Goes on reading until so many tokens have come, or for a moment where none are wanted."""
    if not tokens:
        await asyncio.sleep(pause)
        return
    await call.head()
    async for _ in call.data():
        if call.operation.seen >= tokens:
            return


async def _at_once(work: Callable[[], object], times: int) -> None:
    """So many times, AT_ONCE together."""
    turns: Iterator[int] = iter(range(times))

    async def go_on() -> None:
        for _ in turns:
            await work()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(go_on())


async def _nothing_held(user: User, seconds: float = 60) -> None:
    async def free() -> bool:
        return not int((await user.data("GET", "/v1/wallet"))["held_nanos"])

    await eventually(free, seconds)
