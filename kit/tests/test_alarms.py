"""Alarms: one timer for many deadlines."""

import asyncio
import math

import pytest

from vlinders_kit.alarms import Alarm

pytestmark = pytest.mark.anyio


class Deadlines:
    """What an alarm is set for, and what it has found due."""

    def __init__(self, *moments: float) -> None:
        self.left = list(moments)
        self.due: list[float] = []
        self.rang = 0
        self.all_due = asyncio.Event()

    def ring(self, now: float) -> float:
        self.rang += 1
        self.due += [moment for moment in self.left if moment <= now]
        self.left = [moment for moment in self.left if moment > now]
        if not self.left:
            self.all_due.set()
        return min(self.left, default=math.inf)


async def test_every_deadline_is_found_due_in_its_order() -> None:
    now = asyncio.get_running_loop().time()
    moments = [now + after for after in (0.03, 0.01, 0.02)]
    deadlines = Deadlines(*moments)
    alarm = Alarm(deadlines.ring)

    for moment in moments:
        alarm.by(moment)
    await asyncio.wait_for(deadlines.all_due.wait(), 10)

    assert deadlines.due == sorted(moments)


async def test_a_later_deadline_does_not_move_the_alarm() -> None:
    now = asyncio.get_running_loop().time()
    deadlines = Deadlines(now + 0.01)
    alarm = Alarm(deadlines.ring)

    alarm.by(now + 0.01)
    alarm.by(now + 3600)
    await asyncio.wait_for(deadlines.all_due.wait(), 10)

    assert deadlines.rang == 1


async def test_an_alarm_that_is_off_does_not_ring() -> None:
    now = asyncio.get_running_loop().time()
    quiet, loud = Deadlines(now + 0.01), Deadlines(now + 0.02)
    off, on = Alarm(quiet.ring), Alarm(loud.ring)

    off.by(now + 0.01)
    on.by(now + 0.02)
    off.off()
    await asyncio.wait_for(loud.all_due.wait(), 10)

    assert quiet.rang == 0
