"""Dead letters: shown, sent again to the group that gave them up, or let go; on each bus."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from io import StringIO
from uuid import uuid4

import pytest

from vlinders_kit import dead_letters
from vlinders_kit.bus import Bus, Envelope, open_bus
from vlinders_kit.bus import dead_letters as dead
from vlinders_kit.ids import uuid7
from vlinders_kit.testing import Cluster

QUIET = 1.5


@pytest.fixture(params=["postgres", "kafka"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "kafka":
        yield f"kafka://{request.getfixturevalue('kafka')}"
        return
    cluster: Cluster = request.getfixturevalue("postgres")
    with cluster.database("vlinders_kit.bus") as url:
        yield url


@pytest.fixture
async def bus(url: str) -> AsyncIterator[Bus]:
    bus = open_bus(url, "test")
    yield bus
    await bus.close()


@pytest.fixture
async def topic(bus: Bus) -> str:
    """One with two dead letters, of two keys."""
    topic = f"topic.{uuid4().hex}"
    for name in ("a", "b"):
        letter = Envelope(uuid7(), dead(topic), name, "a.Type", name.encode(), "billing: KeyError")
        await bus.send([letter])
    return topic


async def shown(bus: Bus, topic: str) -> list[str]:
    out = StringIO()
    await dead_letters.show(bus, topic, out, quiet=QUIET)
    return sorted(json.loads(line)["key"] for line in out.getvalue().splitlines())


async def test_looking_changes_nothing(bus: Bus, topic: str) -> None:
    assert await shown(bus, topic) == ["a", "b"]
    assert await shown(bus, topic) == ["a", "b"]


async def test_what_is_replayed_comes_to_its_group_again_and_is_shown_no_more(
    bus: Bus, topic: str
) -> None:
    assert await dead_letters.settle(bus, topic, again=True, quiet=QUIET) == 2

    came: list[Envelope] = []
    async with bus.subscribe("billing", [topic]) as subscription:
        while len(came) < 2:
            came += await asyncio.wait_for(subscription.fetch(), 20)
    assert sorted((it.key, it.body, it.error) for it in came) == [("a", b"a", ""), ("b", b"b", "")]
    assert await shown(bus, topic) == []


async def test_what_is_discarded_is_gone(bus: Bus, topic: str) -> None:
    assert await dead_letters.settle(bus, topic, again=False, quiet=QUIET) == 2

    assert await shown(bus, topic) == []


async def test_the_command_says_what_it_found(bus: Bus, url: str, topic: str) -> None:
    command = [sys.executable, "-m", "vlinders_kit.dead_letters", "list", topic]
    asked = await asyncio.to_thread(
        subprocess.run,
        command,
        env={**os.environ, "VLINDERS_BUS": url},
        capture_output=True,
        text=True,
        check=True,
    )

    rows = [json.loads(line) for line in asked.stdout.splitlines()]
    assert sorted(row["key"] for row in rows) == ["a", "b"]
    assert {row["given_up"] for row in rows} == {"billing: KeyError"}
    assert asked.stderr.endswith(f"list: 2 of {topic}\n")


def test_a_bus_that_is_not_named_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLINDERS_BUS", raising=False)

    assert dead_letters.main(["list", "vlinders.auth"]) == 2

    assert "VLINDERS_BUS is not set" in capsys.readouterr().err
