"""Two schedulers, one of them active: what requests and workers see when that one is gone."""

import asyncio
import itertools
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from tests.chaos import outside
from tests.chaos.faults import frozen
from tests.platform import bearer, chat, eventually
from vlinders_embedded.running import RunningStack, bring_up, take_down
from vlinders_kit.embedded.programs import free_port
from vlinders_kit.testing.figures import Figure

MODEL = "numbered"
WORKERS = 2
FROZEN_SECONDS = 9
BACK_SECONDS = 5
"""In which routing is back."""
SLACK = 5
"""For a machine that is busy with other tests."""

_ENGINE = {"id": MODEL, "engine": "command", "model": MODEL, "counts": "continuous_usage"}
_PRICE = {"input_price": "0.000001", "output_price": "0.000001"}


@dataclass
class Calls:
    """Calls that follow each other all the time, and when each that was answered well ended."""

    well: list[float] = field(default_factory=list)
    ill: list[tuple[float, str]] = field(default_factory=list)

    def longest_gap(self, since: float) -> float:
        """Seconds in which nothing was answered well."""
        moments = [since, *(moment for moment in self.well if moment > since)]
        return max(later - earlier for earlier, later in itertools.pairwise(moments))


@dataclass(frozen=True)
class Pair:
    """The stack with its two schedulers."""

    stack: RunningStack

    def active(self) -> dict[str, Any]:
        """The process that the database says has the fleet."""
        (holder,) = self._row("SELECT holder FROM owner WHERE until > clock_timestamp()") or ("",)
        port = holder.rpartition(":")[2]
        found = [each for each in self._schedulers if each["grpc"].endswith(f":{port}")]
        return found[0] if port and found else {}

    def epochs(self) -> dict[str, int]:
        rows = self._rows("SELECT id, epoch FROM registration WHERE state = 'ONLINE'")
        return dict(rows)

    def joined(self) -> list[str]:
        """The scheduler that each worker is connected to, by what it wrote last of it."""
        return [self._last_joined(number) for number in range(1, WORKERS + 1)]

    @asynccontextmanager
    async def called(self) -> AsyncIterator[Calls]:
        calls = Calls()
        async with httpx.AsyncClient(base_url=self.stack.url, timeout=30) as http:
            callers = [asyncio.create_task(self._call(http, calls)) for _ in range(3)]
            try:
                yield calls
            finally:
                for caller in callers:
                    caller.cancel()
                await asyncio.gather(*callers, return_exceptions=True)

    async def _call(self, http: httpx.AsyncClient, calls: Calls) -> None:
        headers = bearer(self.stack.api_key)
        for number in itertools.count():
            body = chat(MODEL, max_tokens=3, user=f"call_{id(asyncio.current_task())}_{number}")
            answer = await http.post("/v1/chat/completions", json=body, headers=headers)
            if answer.status_code == 200:
                calls.well.append(time.monotonic())
            else:
                calls.ill.append((time.monotonic(), answer.text))
            await asyncio.sleep(0.05)

    @property
    def _schedulers(self) -> list[dict[str, Any]]:
        return list(self.stack.access["parts"]["gpu-scheduler"])

    def _last_joined(self, number: int) -> str:
        lines = map(json.loads, self.stack.log(f"worker-{number}").splitlines())
        ends = [line for line in lines if line["event"] in ("registered", "stream_lost")]
        return str(ends[-1]["scheduler"]) if ends[-1]["event"] == "registered" else ""

    def _row(self, statement: str) -> Any:
        return next(iter(self._rows(statement)), None)

    def _rows(self, statement: str) -> list[Any]:
        secrets = json.loads((self.stack.var / "secrets.json").read_text())
        address = self.stack.access["parts"]["postgres"][0]["tcp"]
        url = f"postgresql://gpu_scheduler:{secrets['databases']['gpu_scheduler']}@{address}"
        with psycopg.connect(f"{url}/gpu_scheduler") as connection:
            return connection.execute(statement.encode()).fetchall()


@contextmanager
def _brought_up(folder: Path) -> Iterator[RunningStack]:
    files = {
        "ENGINES": {"engines": [{**_ENGINE, "command": outside.engine("{port}", folder)}]},
        "CATALOGUE": {
            "models": {
                MODEL: {
                    "worker_model": MODEL,
                    "context_length": 4096,
                    "max_tokens": 100,
                    **_PRICE,
                }
            }
        },
    }
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    variables = {name: str(folder / f"{name}.yaml") for name in files}
    variables["REPLICAS"] = f"gpu-scheduler=2 worker={WORKERS}"
    try:
        yield bring_up(folder / "var", port=free_port(), variables=variables)
    finally:
        take_down(folder / "var")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with _brought_up(tmp_path_factory.mktemp("schedulers")) as stack:
        yield Pair(stack)


async def test_a_killed_scheduler_is_followed_and_costs_no_worker(
    pair: Pair, figure: Figure
) -> None:
    before = await _whole(pair)
    async with pair.called() as calls:
        await _answered(calls, 20)
        began = time.monotonic()
        os.kill(pair.active()["pid"], signal.SIGKILL)
        await _answered(calls, len(calls.well) + 100)
        after = await _whole(pair)
        back = time.monotonic() - began

    gap = calls.longest_gap(began)
    figure("routing away, active scheduler killed", gap, "s", must=f"≤ {BACK_SECONDS} s")
    figure("all workers back at a scheduler", back, "s", must="≤ 15 s")
    assert gap <= BACK_SECONDS + SLACK
    assert after == before


async def test_a_frozen_scheduler_is_followed_by_the_other_and_lets_go_when_it_wakes(
    pair: Pair, figure: Figure
) -> None:
    before = await _whole(pair)
    async with pair.called() as calls:
        await _answered(calls, 20)
        began, old = time.monotonic(), pair.active()
        with frozen(old["pid"]):
            new = await eventually(lambda: _other(pair, old), 30)
            await asyncio.sleep(max(0.0, began + FROZEN_SECONDS - time.monotonic()))
        await _answered(calls, len(calls.well) + 20)
        after = await _whole(pair)

    gap = calls.longest_gap(began)
    figure("routing away, active scheduler frozen", gap, "s", must=f"≤ {BACK_SECONDS} s")
    assert gap <= BACK_SECONDS + SLACK
    assert pair.active() == new
    assert after == before


async def _other(pair: Pair, old: dict[str, Any]) -> dict[str, Any] | None:
    active = pair.active()
    return active if active and active["grpc"] != old["grpc"] else None


async def _answered(calls: Calls, times: int) -> None:
    async def enough() -> bool:
        return len(calls.well) >= times

    await eventually(enough, 60)


async def _whole(pair: Pair) -> dict[str, int]:
    """Epochs by worker, once all of them are connected to the active scheduler."""

    async def look() -> dict[str, int] | None:
        active, epochs = pair.active(), pair.epochs()
        there = set(pair.joined()) == {active.get("grpc")}
        return epochs if there and len(epochs) == WORKERS else None

    return await eventually(look, 60)
