"""An outage is told when it begins and when it ends, and asked about ever more seldom."""

import asyncio

import pytest
from structlog.testing import capture_logs

from vlinders_kit.outages import Outage


async def test_an_outage_is_two_lines_however_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    outage = Outage("bus", first=1, longest=8, chance=lambda: 0.5)
    with capture_logs() as logs:
        outage.over()
        for _ in range(2_000):
            await outage.wait(OSError("away"))
        outage.over()
        outage.over()

    assert [(line["event"], line["of"]) for line in logs] == [
        ("outage_began", "bus"),
        ("outage_ended", "bus"),
    ]
    assert waited[:5] == [0.75, 1.5, 3.0, 6.0, 6.0]
    assert set(waited[4:]) == {6.0}


async def test_the_next_outage_begins_with_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    outage = Outage("bus", first=1, chance=lambda: 0.0)
    for _ in range(2):
        await outage.wait(OSError())
        await outage.wait(OSError())
        outage.over()

    assert waited == [1, 2, 1, 2]
