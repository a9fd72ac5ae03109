"""Picks and what they leave outstanding, held against what truly runs."""

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlinders_gpu_scheduler.errors import NoWorker
from vlinders_gpu_scheduler.picks import RELEASE_AFTER, STANDBY_SLOTS, Picks, Report
from vlinders_gpu_scheduler.slots import Slot
from vlinders_gpu_scheduler.states import Life, State, Timers
from vlinders_gpu_scheduler.workers import Inventory, Offer, Worker
from vlinders_kit.clock import ManualClock

WIDE = Offer("wide", "tiny", parallel=100, ready=True)


class Desk:
    """Picks for one asker, and the workers that they may go to."""

    def __init__(self, hello: Any, line: Any) -> None:
        self.picks = Picks(overcommit=0.25, random=Random(7).random)
        self.hello = hello
        self.asker = line()
        self.now = 0.0

    def join(self, worker_id: str, *offers: Offer, state: State = State.ONLINE) -> Worker:
        hello = self.hello(worker_id, *offers)
        life = Life(Timers(), self.now, state=state)
        worker = Worker(hello, 1, b"key", life, ManualClock().now(), hello.inventory)
        self.picks.place(worker)
        return worker

    def pick(self, request_id: str, *, model: str = "tiny", excluded: tuple[str, ...] = ()) -> Slot:
        return self.picks.pick(request_id, model, excluded, self.asker, self.now)

    def finish(self, *request_ids: str) -> None:
        self.picks.finished(request_ids, self.now)

    def report(
        self, slot: Slot, *running: str, finished: tuple[str, ...] = (), most: int = 0
    ) -> None:
        self.picks.reported(slot.worker, [Report(slot.id, frozenset(running), finished)], most)


@pytest.fixture
def desk(hello: Any, line: Any) -> Desk:
    return Desk(hello, line)


class TestChoice:
    def test_goes_to_whoever_has_less_to_do(self, desk: Desk) -> None:
        desk.join("worker_1")
        desk.join("worker_2")

        picked = [desk.pick(f"gen_{n}").worker.id for n in range(6)]

        assert sorted(picked) == ["worker_1"] * 3 + ["worker_2"] * 3

    def test_stops_a_little_beyond_what_a_slot_runs_at_once(self, desk: Desk) -> None:
        desk.join("worker_1")
        for n in range(5):
            desk.pick(f"gen_{n}")

        with pytest.raises(NoWorker):
            desk.pick("gen_5")
        desk.finish("gen_0")
        desk.pick("gen_5")

    def test_of_a_full_model_tells_when_it_is_worth_to_ask_again(self, desk: Desk) -> None:
        desk.join("worker_1")
        slot, *_ = [desk.pick(f"gen_{n}") for n in range(5)]
        slot.latency = 10.0  # one of the five ends every two seconds

        waits = []
        for n in range(3):
            with pytest.raises(NoWorker) as refused:
                desk.pick(f"gen_more_{n}")
            waits.append(refused.value.retry_after.total_seconds())

        assert waits == [2, 4, 6]

    def test_gives_a_worker_that_is_late_no_more_than_it_takes(self, desk: Desk) -> None:
        late, _ = desk.join("worker_1", WIDE), desk.join("worker_2", WIDE)
        slot = late.slots["wide"]
        desk.report(slot, "gen_1", "gen_2", "gen_3", most=2)

        assert {desk.pick(f"gen_more_{n}").worker.id for n in range(125)} == {"worker_2"}
        with pytest.raises(NoWorker):
            desk.pick("gen_too_many")

        desk.report(slot, "gen_1", finished=("gen_2", "gen_3"), most=2)
        assert desk.pick("gen_4").worker is late
        with pytest.raises(NoWorker):
            desk.pick("gen_5")

        desk.report(slot, "gen_1", "gen_4", most=100)
        assert desk.pick("gen_5").worker is late

    @pytest.mark.parametrize("state", [State.REGISTERING, State.DRAINING, State.OFFLINE])
    def test_is_never_a_worker_that_comes_or_goes(self, desk: Desk, state: State) -> None:
        desk.join("worker_1", state=state)

        with pytest.raises(NoWorker):
            desk.pick("gen_1")

    def test_is_a_suspect_only_where_nobody_else_has_the_model(self, desk: Desk) -> None:
        online = desk.join("worker_1")
        desk.join("worker_2", state=State.SUSPECT)
        assert {desk.pick(f"gen_{n}").worker.id for n in range(5)} == {"worker_1"}

        with pytest.raises(NoWorker):
            desk.pick("gen_5")

        assert desk.pick("gen_0", excluded=("worker_1",)).worker.id == "worker_2"
        online.life.end("goodbye")
        desk.picks.place(online)
        assert desk.pick("gen_6").worker.id == "worker_2"

    def test_is_never_a_slot_that_loads_or_failed(self, desk: Desk) -> None:
        desk.join("worker_1", Offer("tiny-chat", "tiny", parallel=4, ready=False))

        with pytest.raises(NoWorker):
            desk.pick("gen_1")

    def test_of_an_unknown_model_is_refused_with_its_name(self, desk: Desk) -> None:
        desk.join("worker_1")

        with pytest.raises(NoWorker, match="huge"):
            desk.pick("gen_1", model="huge")

    def test_follows_the_inventory(self, desk: Desk) -> None:
        worker = desk.join("worker_1")
        desk.pick("gen_1")
        other = Offer("tiny-chat", "small", parallel=1, ready=True)
        worker.inventory = Inventory((other,), body=b"", lasting=b"", pretended=False)
        desk.picks.place(worker)

        assert desk.pick("gen_2", model="small").outstanding == 1
        with pytest.raises(NoWorker):
            desk.pick("gen_3")


class TestCount:
    def test_rises_with_a_pick_and_falls_with_its_end(self, desk: Desk) -> None:
        desk.join("worker_1")
        slot = desk.pick("gen_1")
        assert slot.outstanding == 1

        desk.finish("gen_1", "gen_1", "gen_unknown")

        assert slot.outstanding == 0

    def test_counts_a_request_once_when_its_worker_reports_it(self, desk: Desk) -> None:
        desk.join("worker_1")
        slot = desk.pick("gen_1")

        desk.report(slot, "gen_1")
        assert slot.outstanding == 1
        desk.report(slot)
        assert slot.outstanding == 0

    def test_falls_with_the_end_that_inference_tells_before_the_worker_does(
        self, desk: Desk
    ) -> None:
        desk.join("worker_1")
        slot = desk.pick("gen_1")
        desk.report(slot, "gen_1")

        desk.finish("gen_1")

        assert slot.outstanding == 0

    def test_learns_how_long_requests_take_from_those_that_ran(self, desk: Desk) -> None:
        """A slot that fails at once is not the fastest."""
        desk.join("worker_1")
        slot = desk.pick("gen_never_began")
        desk.pick("gen_1")
        desk.report(slot, "gen_1")
        desk.finish("gen_never_began")
        assert slot.latency == 0
        desk.now = 3.0
        desk.finish("gen_1")

        assert slot.latency == 3

    def test_keeps_a_pick_that_the_worker_has_not_seen(self, desk: Desk) -> None:
        desk.join("worker_1")
        slot = desk.pick("gen_1")
        desk.pick("gen_2")

        desk.report(slot, "gen_1")
        desk.report(slot)

        assert slot.outstanding == 1

    def test_ends_a_request_that_began_and_ended_between_two_reports(self, desk: Desk) -> None:
        desk.join("worker_1")
        slot = desk.pick("gen_1")

        desk.report(slot, finished=("gen_1",))

        assert slot.outstanding == 0

    def test_takes_in_what_was_picked_by_nobody_here(self, desk: Desk) -> None:
        """By a standby table, or by the scheduler before this one."""
        worker = desk.join("worker_1")

        desk.report(worker.slots["tiny-chat"], "gen_1", "gen_2")

        assert worker.slots["tiny-chat"].outstanding == 2

    def test_moves_with_a_request_that_is_picked_again(self, desk: Desk) -> None:
        desk.join("worker_1")
        desk.join("worker_2")
        first = desk.pick("gen_1")

        second = desk.pick("gen_1", excluded=(first.worker.id,))

        assert (first.outstanding, second.outstanding) == (0, 1)
        assert first.worker is not second.worker

    def test_is_not_aged_by_time(self, desk: Desk) -> None:
        desk.join("worker_1")
        slot = desk.pick("gen_1")

        desk.picks.tick(1e9)

        assert slot.outstanding == 1

    def test_of_a_worker_that_is_gone_is_nobodys(self, desk: Desk) -> None:
        worker = desk.join("worker_1")
        desk.pick("gen_1")
        desk.picks.remove(worker)
        again = desk.join("worker_1")

        desk.finish("gen_1")

        assert again.slots["tiny-chat"].outstanding == 0


class TestAskerThatIsLost:
    def test_has_its_unseen_picks_released_after_their_tickets(self, desk: Desk) -> None:
        desk.join("worker_1")
        slot = desk.pick("gen_1")
        desk.picks.leave(desk.asker, 0.0)

        desk.picks.tick(RELEASE_AFTER - 0.1)
        assert slot.outstanding == 1
        desk.picks.tick(RELEASE_AFTER)
        assert slot.outstanding == 0

    def test_leaves_what_runs_until_the_worker_says_that_it_ended(self, desk: Desk) -> None:
        desk.join("worker_1")
        slot = desk.pick("gen_1")
        desk.report(slot, "gen_1")
        desk.picks.leave(desk.asker, 0.0)

        desk.picks.tick(1e9)
        assert slot.outstanding == 1
        desk.report(slot)
        assert slot.outstanding == 0

    def test_takes_nobody_elses_with_it(self, desk: Desk, line: Any) -> None:
        desk.join("worker_1")
        slot = desk.pick("gen_1")
        desk.picks.leave(line(), 0.0)
        desk.picks.tick(1e9)

        assert slot.outstanding == 1


class TestStreamThatBeginsAgain:
    def test_brings_the_truth_about_what_runs(self, desk: Desk) -> None:
        worker = desk.join("worker_1")
        slot = desk.pick("gen_on_its_way")
        desk.pick("gen_runs")
        desk.report(slot, "gen_runs", "gen_ended")

        desk.picks.resumed(worker, ["gen_runs"])

        assert slot.running == {"gen_runs"}
        assert slot.unseen == {"gen_on_its_way"}

    def test_counts_what_nobody_knows_on_each_slot_until_it_is_said_where(self, desk: Desk) -> None:
        other = Offer("other", "small", parallel=4, ready=True)
        worker = desk.join("worker_1", WIDE, other)
        wide, small = worker.slots["wide"], worker.slots["other"]

        desk.picks.resumed(worker, ["gen_1", "gen_2"])
        assert (wide.outstanding, small.outstanding) == (2, 2)
        desk.report(wide, "gen_1")
        assert (wide.outstanding, small.outstanding) == (2, 1)
        desk.picks.reported(
            worker,
            [Report("wide", frozenset(["gen_1"]), ()), Report("other", frozenset(), ())],
        )
        assert (wide.outstanding, small.outstanding) == (1, 0)


def test_the_standby_table_has_some_slots_of_each_model_with_room(desk: Desk) -> None:
    one = Offer("one", "tiny", parallel=1, ready=True)
    for n in range(STANDBY_SLOTS + 10):
        desk.join(f"worker_{n}", one)
    desk.join("worker_small", Offer("small", "small", parallel=1, ready=True))
    full = desk.pick("gen_1")
    desk.picks.pick(
        "gen_2",
        "tiny",
        {f"worker_{n}" for n in range(80)}.difference([full.worker.id]),
        desk.asker,
        0,
    )

    table = desk.picks.standby()

    assert len(table["tiny"]) == STANDBY_SLOTS
    assert [slot.worker.id for slot in table["small"]] == ["worker_small"]
    assert full not in table["tiny"]


def test_a_full_slot_is_in_the_standby_table_too_for_when_something_ends(desk: Desk) -> None:
    desk.join("worker_1", Offer("small", "small", parallel=1, ready=True))
    slot = desk.pick("gen_1", model="small")
    desk.pick("gen_2", model="small")
    assert slot.full

    assert desk.picks.standby()["small"] == [slot]


STEPS = st.lists(
    st.sampled_from(["pick", "begin", "never", "end", "report", "hear", "tell", "again"]),
    max_size=300,
)


@given(steps=STEPS, seed=st.integers(0, 10_000))
@settings(max_examples=150, deadline=None)
def test_counts_come_to_the_workers_truth_in_any_order(
    hello: Any, line: Any, steps: list[str], seed: int
) -> None:
    """Requests begin and end, reports and ends travel late: when all have come, counts are true."""
    random = Random(seed)
    desk = Desk(hello, line)
    slots = [desk.join(f"worker_{n}", WIDE).slots["wide"] for n in range(3)]
    truth: dict[Slot, set[str]] = {slot: set() for slot in slots}
    ended: dict[Slot, list[str]] = {slot: [] for slot in slots}
    reports: dict[Slot, list[tuple[frozenset[str], tuple[str, ...]]]] = {s: [] for s in slots}
    picked: dict[str, Slot] = {}
    finished: list[str] = []

    def report(slot: Slot) -> None:
        reports[slot].append((frozenset(truth[slot]), tuple(ended[slot])))
        ended[slot].clear()

    def hear(slot: Slot) -> None:
        running, gone = reports[slot].pop(0)
        desk.report(slot, *running, finished=gone)

    def end(slot: Slot, request_id: str) -> None:
        truth[slot].discard(request_id)
        ended[slot].append(request_id)
        finished.append(request_id)

    for number, step in enumerate(steps):
        slot = random.choice(slots)
        if step == "pick":
            picked[f"gen_{number}"] = desk.pick(f"gen_{number}")
        elif step == "begin" and picked:
            request_id, to = picked.popitem()
            truth[to].add(request_id)
        elif step == "never" and picked:
            finished.append(picked.popitem()[0])
        elif step == "again" and picked:
            request_id, to = picked.popitem()
            picked[request_id] = desk.pick(request_id, excluded=(to.worker.id,))
        elif step == "end" and truth[slot]:
            end(slot, random.choice(sorted(truth[slot])))
        elif step == "report":
            report(slot)
        elif step == "hear" and reports[slot]:
            hear(slot)
        elif step == "tell" and finished:
            desk.finish(finished.pop(random.randrange(len(finished))))

    desk.finish(*finished)
    for slot in slots:
        report(slot)
        while reports[slot]:
            hear(slot)
        waiting = {id for id, to in picked.items() if to is slot}
        assert slot.running == truth[slot]
        assert slot.unseen == waiting
        assert slot.outstanding == len(truth[slot]) + len(waiting)
