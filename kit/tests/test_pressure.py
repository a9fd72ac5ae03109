"""Pressure: what a process takes at once, by whether its event loop keeps up."""

import asyncio
import time

import pytest

from vlinders_kit.pressure import LEAST, TARGET, Pressure

pytestmark = pytest.mark.anyio


def test_a_standing_queue_takes_from_the_bound_down_to_a_least() -> None:
    pressure = Pressure(4_096, lambda: 1_000)
    pressure.adapt(2 * TARGET)
    assert pressure.most == 750
    for _ in range(20):
        pressure.adapt(2 * TARGET)
    assert pressure.most == LEAST


def test_it_comes_back_within_ten_seconds() -> None:
    pressure = Pressure(1_000, lambda: 0)
    pressure.adapt(2 * TARGET)
    for _ in range(20):
        pressure.adapt(0.0)
    assert pressure.most == 1_000


def test_a_bound_below_the_least_is_kept() -> None:
    pressure = Pressure(10, lambda: 10)
    pressure.adapt(2 * TARGET)
    assert pressure.most == 10


def test_who_is_told_hears_of_every_move_and_of_nothing_else() -> None:
    told: list[int] = []
    pressure = Pressure(4_096, lambda: 1_000, lambda: told.append(pressure.most))
    for waited in (0.0, 2 * TARGET, 0.0):
        pressure.adapt(waited)
    assert told == [750, 843]


async def test_work_that_keeps_the_loop_is_felt_and_waiting_is_not() -> None:
    pressure = Pressure(1_000, lambda: 400)
    watching = asyncio.create_task(pressure.run())
    await asyncio.sleep(1.2)
    assert pressure.most == 1_000

    until = time.monotonic() + 2
    while time.monotonic() < until:
        time.sleep(0.2)  # noqa: ASYNC251
        await asyncio.sleep(0)

    assert pressure.most < 400
    watching.cancel()
