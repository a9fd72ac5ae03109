"""Which slot of a model is chosen, against what looking at all of them would choose."""

from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vlinders_gpu_scheduler.candidates import Candidates
from vlinders_gpu_scheduler.slots import Slot, capacity_of
from vlinders_gpu_scheduler.states import Life, Timers
from vlinders_gpu_scheduler.workers import Worker
from vlinders_kit.clock import ManualClock


def slot_of(hello: Any, number: int, *, parallel: int = 4, outstanding: int = 0) -> Slot:
    told, life = hello(f"worker_{number}"), Life(Timers(), 0.0)
    worker = Worker(told, number, b"key", life, ManualClock().now(), told.inventory)
    unseen = {f"gen_{number}_{n}" for n in range(outstanding)}
    return Slot(worker, "s", "tiny", parallel, capacity_of(parallel, 0.25), unseen=unseen)


def candidates_of(*slots: Slot, random: Any = lambda: 0.0) -> Candidates:
    candidates = Candidates(random)
    for slot in slots:
        candidates.add(slot)
    return candidates


def test_the_least_loaded_relative_to_its_width_is_chosen(hello: Any) -> None:
    narrow = slot_of(hello, 1, parallel=1)
    wide = slot_of(hello, 2, parallel=8, outstanding=3)

    assert candidates_of(narrow, wide).choose(()) is wide


def test_among_equals_the_faster_one_is_found(hello: Any) -> None:
    slots = [slot_of(hello, number) for number in range(3)]
    for slot, latency in zip(slots, (3.0, 2.0, 0.5), strict=True):
        slot.took(latency)

    assert candidates_of(*slots, random=lambda: 0.99).choose(()) is slots[2]


def test_equals_take_turns(hello: Any) -> None:
    slots = [slot_of(hello, number) for number in range(5)]
    candidates = candidates_of(*slots)
    chosen = []
    for turn in range(5):
        slot = candidates.choose(())
        assert slot is not None
        slot.unseen.add(f"gen_{turn}")
        candidates.touch(slot)
        chosen.append(slot.worker.id)

    assert len(set(chosen)) == 5


def test_a_full_slot_is_never_chosen_even_where_it_is_the_least_loaded(hello: Any) -> None:
    full = slot_of(hello, 1, parallel=8, outstanding=10)
    busier = slot_of(hello, 2, parallel=1, outstanding=1)

    assert full.load < busier.load
    assert candidates_of(full, busier).choose(()) is busier
    assert candidates_of(full).choose(()) is None


def test_excluded_workers_are_passed_over_and_stay_candidates(hello: Any) -> None:
    idle, busy = slot_of(hello, 1), slot_of(hello, 2, outstanding=2)
    candidates = candidates_of(idle, busy)

    assert candidates.choose({"worker_1"}) is busy
    assert candidates.choose({"worker_1", "worker_2"}) is None
    assert candidates.choose(()) is idle


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["pick", "end", "leave", "join"]), st.integers(0, 7), st.integers(0, 7)
    ),
    max_size=200,
)


@given(moves=MOVES, seed=st.integers(0, 1000))
def test_what_is_chosen_is_as_good_as_the_best_of_all(
    hello: Any, moves: list[tuple[str, int, int]], seed: int
) -> None:
    slots = [slot_of(hello, number, parallel=1 + number % 4) for number in range(8)]
    present = {slot.worker.id: slot for slot in slots}
    candidates = candidates_of(*slots, random=Random(seed).random)
    for count, (move, number, excluded) in enumerate(moves):
        slot = slots[number]
        if move == "pick":
            chosen = candidates.choose({f"worker_{excluded}"})
            free = [s for id, s in present.items() if not s.full and id != f"worker_{excluded}"]
            assert (chosen is None) == (not free)
            if chosen is not None:
                assert chosen in free
                assert chosen.load == min(slot.load for slot in free)
                chosen.unseen.add(f"gen_{count}")
                candidates.touch(chosen)
        elif move == "end" and slot.unseen:
            slot.unseen.pop()
            if slot.worker.id in present:
                candidates.touch(slot)
        elif move == "leave" and slot.worker.id in present:
            candidates.remove(present.pop(slot.worker.id))
        elif move == "join" and slot.worker.id not in present:
            present[slot.worker.id] = slot
            candidates.add(slot)
    assert set(candidates) == set(present.values())
