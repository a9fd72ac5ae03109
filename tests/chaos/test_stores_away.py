"""Valkey and PostgreSQL that stand still, or are killed, under load."""

import asyncio
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import pytest

from tests.chaos.faults import HOW, How, away, frozen, kill
from tests.chaos.load import Load, Operation
from tests.chaos.oracle import judge, settle
from tests.chaos.scale import scaled
from tests.chaos.stack import Chaos
from tests.platform import User, bearer, eventually
from vlinders_kit.testing.figures import Figure

VALKEY_SECONDS = scaled(3, 60)
CALM_SECONDS = scaled(2, 20)
P99_MORE = 0.05
"""Seconds by which the slowest hundredth may be slower without Valkey."""
REVOKED = scaled(20, 1_000)
"""Credentials that are shown after they were revoked."""
POSTGRES_SECONDS = scaled(4, 30)
MONEY_SECONDS = 2.0
"""In which whatever needs PostgreSQL must be refused without it."""
BACK_SECONDS = 15.0
"""In which all is well again, once it answers."""


@pytest.fixture
async def counted(chaos: Chaos) -> User:
    """Somebody whose requests are counted, and never too many."""
    return await chaos.platform.sign_up(plan="pro")


async def test_without_valkey_no_request_fails_and_none_is_slow(
    chaos: Chaos, counted: User, figure: Figure
) -> None:
    with _written(chaos, "gateway") as told:
        async with Load(chaos, counted, json=4, max_tokens=2, rate=200) as load:
            await load.until(lambda each: each.outcome == "ok", times=20)
            calm = time.monotonic()
            await asyncio.sleep(CALM_SECONDS)
            with frozen(*chaos.pids("valkey")):
                began = time.monotonic()
                await asyncio.sleep(VALKEY_SECONDS)
                ended = time.monotonic()
            await eventually(lambda: _said(told, "limits_shared_again", 2), 15)
    await settle(chaos, counted)
    verdict = await judge(chaos, counted, load.operations)

    before = _p99(load.operations, calm, began)
    during = _p99(load.operations, began, ended)
    failed = sum(each.outcome != "ok" for each in load.operations)
    condition = f"SIGSTOP for {VALKEY_SECONDS} s, {len(load.operations)} requests, all counted"
    figure("requests failed without Valkey", failed, must="0", condition=condition)
    more = f"≤ {before * 1000:.0f} ms + 50"
    figure("p99 without Valkey", during * 1000, "ms", must=more, condition=condition)
    lines = [line["event"] for line in told() if line["event"].startswith("limits_")]
    figure("lines of log about it, two gateways", len(lines), must="4", condition=condition)
    assert failed == 0
    assert sorted(lines) == ["limits_by_share"] * 2 + ["limits_shared_again"] * 2
    assert during <= before + scaled(1.0, P99_MORE)  # the short form shares its machine
    assert verdict.findings == []


async def test_a_revoked_key_stays_revoked_when_valkey_has_lost_everything(
    chaos: Chaos, counted: User, figure: Figure
) -> None:
    keys = await asyncio.gather(*(counted.key() for _ in range(4)))
    for key in keys:
        assert (await _models(chaos, key["key"])).status_code == 200
    for key in keys:
        assert (await counted.call("DELETE", f"/v1/api-keys/{key['id']}")).status_code < 300
    balance = await counted.balance()
    (pid,) = chaos.pids("valkey")
    with frozen(pid):
        shutil.rmtree(chaos.stack.var / "valkey" / "appendonlydir")
        kill(pid)
    turns = itertools.islice(itertools.cycle(keys), REVOKED)
    answers = [(await _models(chaos, key["key"])).status_code for key in turns]

    figure(
        "revoked keys that were let in after Valkey's data was lost",
        sum(status != 401 for status in answers),
        must="0",
        condition=f"of {REVOKED}",
    )
    assert set(answers) == {401}
    assert await counted.balance() == balance


@pytest.mark.parametrize("how", scaled(HOW[:1], HOW))
async def test_without_postgres_money_is_refused_in_time_and_nothing_is_lost(
    chaos: Chaos, user: User, figure: Figure, how: How
) -> None:
    numbers = itertools.count()
    rate, tokens = 10, 10 * (POSTGRES_SECONDS + 6)
    async with (
        Load(chaos, user, streams=6, numbers=numbers, max_tokens=tokens, rate=rate) as streams,
        Load(chaos, user, json=4, numbers=numbers, max_tokens=4, rate=100) as asked,
    ):
        await streams.until(lambda each: each.seen > 0, times=6)
        await asked.until(lambda each: each.outcome == "ok", times=8)
        running = list(streams.operations)
        async with away(partial(chaos.pids, "postgres"), how):
            refused = await _refusals(user, until=time.monotonic() + POSTGRES_SECONDS)
        ended = time.monotonic()
        await asked.until(lambda each: each.outcome == "ok" and each.invoked > ended)
        back = time.monotonic() - ended
    await settle(chaos, user)
    verdict = await judge(chaos, user, [*streams.operations, *asked.operations])

    condition = f"{how}, under load"
    slowest = max(waited for _, waited in refused)
    name = "money refused without PostgreSQL, slowest"
    figure(name, slowest, "s", must="≤ 2 s", condition=f"{condition}, {len(refused)} calls")
    figure(
        "first request served after PostgreSQL was back",
        back,
        "s",
        must="≤ 15 s",
        condition=condition,
    )
    figure("lost or double charges", len(verdict.findings), must="0", condition=condition)
    figure(
        "streams that ended with an error",
        sum(each.outcome != "ok" for each in running),
        condition=f"{condition}, of {len(running)}",
    )
    assert {answer.status_code for answer, _ in refused} == {503}
    assert all("Retry-After" in answer.headers for answer, _ in refused)
    assert slowest <= MONEY_SECONDS
    assert back <= BACK_SECONDS
    assert verdict.findings == []


async def _refusals(user: User, *, until: float) -> list[tuple[httpx.Response, float]]:
    """Answers to money and control, asked again and again, and how long each took."""
    found = []
    paths = itertools.cycle(
        ["/v1/wallet", "/v1/usage/records", "/v1/api-keys", "/v1/wallet/transfers"]
    )

    async def ask(path: str) -> tuple[httpx.Response, float]:
        began = time.monotonic()
        return await user.call("GET", path), time.monotonic() - began

    while time.monotonic() < until:
        found += await asyncio.gather(*(ask(path) for path in itertools.islice(paths, 8)))
        await asyncio.sleep(0.1)
    return found


async def _models(chaos: Chaos, key: str) -> httpx.Response:
    return await chaos.platform.http.get("/v1/models", headers=bearer(key))


def _p99(operations: Sequence[Operation], first: float, last: float) -> float:
    times = sorted(each.ended - each.invoked for each in operations if first < each.invoked < last)
    return times[int(len(times) * 0.99)]


@contextmanager
def _written(chaos: Chaos, part: str) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the processes of a part write from here on, asked for when it is wanted."""
    files = sorted((chaos.stack.var / "logs").glob(f"{part}-*.log"))
    since = {file: file.stat().st_size for file in files}

    def told() -> list[dict[str, Any]]:
        rows = []
        for file in files:
            with file.open("rb") as log:
                log.seek(since[file])
                rows += [json.loads(line) for line in log if line.startswith(b"{")]
        return rows

    yield told


async def _said(told: Callable[[], list[dict[str, Any]]], event: str, times: int) -> bool:
    return sum(1 for line in told() if line["event"] == event) >= times
