"""A broker that is away: requests do not notice, and what happened is told in order afterwards."""

import asyncio
import itertools
import time
from functools import partial
from typing import Any

import pytest

from tests.chaos.faults import How, away
from tests.chaos.load import Load
from tests.chaos.oracle import judge, settle
from tests.chaos.scale import scaled
from tests.chaos.stack import Chaos
from tests.platform import User, eventually
from vlinders_kit.testing.figures import Figure

SECONDS: dict[How, int] = scaled({"frozen": 4}, {"frozen": 60, "down": 300})
RATE = scaled(50, 4)
"""Tokens a second of each answer: what waits in the end shall be some thousands of events."""
DRAINED_SECONDS = 120.0
SERVICES = ("auth", "billing", "inference", "gpu_scheduler")


@pytest.mark.parametrize("how", SECONDS)
async def test_while_the_broker_is_away_requests_go_on_and_no_event_is_lost(
    chaos: Chaos, user: User, figure: Figure, how: How
) -> None:
    if "kafka" not in chaos.parts:
        pytest.skip("needs Kafka")
    numbers = itertools.count()
    body: dict[str, Any] = {"max_tokens": 5, "rate": RATE}
    async with (
        Load(chaos, user, streams=3, numbers=numbers, **body) as streams,
        Load(chaos, user, json=3, numbers=numbers, **body) as asked,
    ):
        await asked.until(lambda each: each.outcome == "ok", times=6)
        async with away(partial(chaos.pids, "kafka"), how):
            began = time.monotonic()
            newcomer = await chaos.platform.sign_up()
            await asyncio.sleep(began + SECONDS[how] - time.monotonic())
            waiting = await _undelivered(chaos)
        ended = time.monotonic()
        await eventually(partial(_drained, chaos), DRAINED_SECONDS)
        drained = time.monotonic() - ended
    await settle(chaos, user)
    operations = [*streams.operations, *asked.operations]
    verdict = await judge(chaos, user, operations)

    failed = sum(each.outcome != "ok" for each in operations)
    condition = f"{how} for {SECONDS[how]} s, {len(operations)} requests"
    figure("requests failed without the broker", failed, must="0", condition=condition)
    figure(
        "outbox drained after it was back",
        drained,
        "s",
        must="≤ 120 s",
        condition=f"{condition}, {waiting} events waited",
    )
    figure("events lost, by the books", len(verdict.findings), must="0", condition=condition)
    assert failed == 0
    assert waiting > 0
    assert verdict.findings == []
    await _has_a_wallet(newcomer)


async def _undelivered(chaos: Chaos) -> int:
    """Events that the bus does not have."""
    rows = [await chaos.platform.sql(name, "SELECT count(*) FROM outbox") for name in SERVICES]
    return sum(row[0][0] for row in rows)


async def _drained(chaos: Chaos) -> bool:
    """Whether nothing waits that has been there for a second: load goes on."""
    old = "SELECT 1 FROM outbox WHERE at < now() - interval '1 second' LIMIT 1"
    return not any([await chaos.platform.sql(name, old) for name in SERVICES])


async def _has_a_wallet(user: User) -> None:
    """What an event of the outage had to bring about."""

    async def funded() -> bool:
        return (
            await user.call("GET", "/v1/wallet")
        ).status_code == 200 and await user.balance() > 0

    await eventually(funded, 30)
