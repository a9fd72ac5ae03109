"""Turns: refused callers are sent away for as long as a queue of them would take."""

from typing import Any

import pytest

from vlinders_gpu_scheduler.slots import Slot
from vlinders_gpu_scheduler.states import Life, Timers
from vlinders_gpu_scheduler.turns import LONGEST, Turns
from vlinders_gpu_scheduler.workers import Worker
from vlinders_kit.clock import ManualClock


@pytest.fixture
def slot(hello: Any) -> Slot:
    """Four requests of two seconds each: two end in a second."""
    told, life = hello("worker_1"), Life(Timers(), 0.0)
    worker = Worker(told, 1, b"key", life, ManualClock().now(), told.inventory)
    running = {f"gen_{n}" for n in range(4)}
    return Slot(worker, "s", "tiny", parallel=4, running=running, latency=2.0)


def test_those_that_are_refused_together_come_again_one_after_the_other(slot: Slot) -> None:
    turns = Turns()
    assert [turns.next([slot], 100.0) for _ in range(4)] == [0.5, 1.0, 1.5, 2.0]


def test_the_queue_moves_on_with_time(slot: Slot) -> None:
    turns = Turns()
    for _ in range(4):
        turns.next([slot], 100.0)

    assert turns.next([slot], 101.5) == 1.0
    assert turns.next([slot], 200.0) == 0.5


@pytest.mark.parametrize("latency", [2.0, 0.3, 0.7, 1.1])
def test_nobody_is_sent_away_for_ever(slot: Slot, latency: float) -> None:
    slot.latency = latency
    turns = Turns()
    waits = [turns.next([slot], 100.0 + n / 1_000) for n in range(2_000)]
    assert waits[-1] == LONGEST


def test_of_a_slot_that_has_ended_nothing_yet_nobody_can_say(slot: Slot) -> None:
    slot.latency = 0.0
    assert Turns().next([slot], 100.0) is None


def test_a_refusal_looks_at_all_slots_no_more_than_once_a_second(slot: Slot) -> None:
    looks = 0

    def slots() -> Any:
        nonlocal looks
        looks += 1
        yield slot

    turns = Turns()
    for n in range(100):
        turns.next(slots(), 100.0 + n / 50)
    assert looks == 2
