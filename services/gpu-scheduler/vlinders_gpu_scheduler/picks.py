"""Picks: which slot serves a request, and what that makes outstanding.

Now by outstanding load alone. What comes later has its place: prefix affinity and its price in
`candidates`, the queue of each worker with its fairness between `pick` and the slot.
"""

from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from vlinders_gpu_scheduler.candidates import Candidates, Random
from vlinders_gpu_scheduler.errors import NoWorker
from vlinders_gpu_scheduler.slots import Slot, capacity_of
from vlinders_gpu_scheduler.states import State
from vlinders_gpu_scheduler.tickets import LIFETIME
from vlinders_gpu_scheduler.workers import NO_BOUND, Worker

STANDBY_SLOTS = 64
"""Of each model, in the table that inference goes on with when the scheduler is silent."""

RELEASE_AFTER = LIFETIME + 1.0
"""Seconds after which a pick of a lost asker cannot become a request any more: its ticket is over,
and what was begun with it has been reported."""


class Asker(Protocol):
    """An inference replica's stream, as the owner of its picks."""

    def suspect(self) -> None:
        """Has it told who is suspect now."""

    def close(self, error: Exception | None = None) -> None: ...


@dataclass(frozen=True)
class Report:
    """A worker's word on one slot."""

    slot_id: str
    running: frozenset[str]
    finished: Sequence[str]


@dataclass(eq=False, slots=True)
class Pick:
    slot: Slot
    asker: Asker
    at: float


class Picks:
    """All slots that can be picked, and all picks that are outstanding."""

    def __init__(self, *, overcommit: float, random: Random) -> None:
        self._overcommit = overcommit
        self._random = random
        self._picks: dict[str, Pick] = {}
        self._lost: deque[tuple[float, Asker]] = deque()
        self._online: dict[str, Candidates] = {}
        self._suspect: dict[str, Candidates] = {}
        self._tables: Mapping[State, dict[str, Candidates]] = {
            State.ONLINE: self._online,
            State.SUSPECT: self._suspect,
        }

    def pick(
        self, request_id: str, model: str, excluded: Container[str], asker: Asker, now: float
    ) -> Slot:
        """The slot for a request, which is outstanding there from now on. Raises NoWorker.

        A request that was picked before is not outstanding there any more: it has come back.
        """
        self._release(request_id)
        slot = self._choose(model, excluded, now)
        self._picks[request_id] = Pick(slot, asker, now)
        slot.unseen.add(request_id)
        _touch(slot)
        return slot

    def finished(self, request_ids: Iterable[str], now: float) -> None:
        """They have ended, or will never begin."""
        for request_id in request_ids:
            pick = self._picks.get(request_id)
            if pick is not None and request_id in pick.slot.running:
                pick.slot.took(now - pick.at)
            self._release(request_id)

    def leave(self, asker: Asker, now: float) -> None:
        """The asker is gone: its picks that no worker reports end with their tickets."""
        self._lost.append((now + RELEASE_AFTER, asker))

    def tick(self, now: float) -> None:
        lost: set[Asker] = set()
        while self._lost and self._lost[0][0] <= now:
            lost.add(self._lost.popleft()[1])
        if lost:
            for request_id, pick in list(self._picks.items()):
                if pick.asker in lost and request_id in pick.slot.unseen:
                    self._release(request_id)

    def standby(self) -> dict[str, Sequence[Slot]]:
        """Model → some of the slots that can take a request for it."""
        return {
            model: candidates.sample(STANDBY_SLOTS)
            for model, candidates in {**self._suspect, **self._online}.items()
        }

    def place(self, worker: Worker) -> None:
        """Takes in the worker's state and inventory as they are now."""
        offers = {offer.id: offer for offer in worker.inventory.offers}
        for slot_id, slot in list(worker.slots.items()):
            offer = offers.get(slot_id)
            if offer is None or offer.model != slot.model:
                self._drop(slot)
        for offer in offers.values():
            slot = worker.slots.get(offer.id) or Slot(worker, offer.id, offer.model)
            worker.slots[offer.id] = slot
            slot.parallel = offer.parallel
            slot.capacity = capacity_of(offer.parallel, self._overcommit)
            self._stand(slot, self._tables.get(worker.life.state) if offer.ready else None)

    def remove(self, worker: Worker) -> None:
        """The worker's epoch is over: what ran in it is counted no more."""
        for slot in list(worker.slots.values()):
            self._drop(slot)
        worker.unplaced.clear()

    def resumed(self, worker: Worker, running: Iterable[str]) -> None:
        """A stream begins with all that runs on the worker, without saying on which slot."""
        worker.unplaced = set(running)
        for slot in worker.slots.values():
            known = worker.unplaced & (slot.running | slot.unseen)
            worker.unplaced -= known
            self._take(slot, known, ())
        _touch(*worker.slots.values())

    def reported(self, worker: Worker, reports: Sequence[Report], most: int = 0) -> None:
        """The worker's word replaces our count, but for picks that it has not seen.

        `most` is what it takes at a time, as it is now; 0: what its slots take.
        """
        worker.most = most or NO_BOUND
        told = set()
        for report in reports:
            slot = worker.slots.get(report.slot_id)
            if slot is not None:
                told.add(slot.id)
                worker.unplaced.difference_update(report.running, report.finished)
                self._take(slot, set(report.running), report.finished)
        if told == worker.slots.keys():
            worker.unplaced.clear()
        _touch(*worker.slots.values())

    def _take(self, slot: Slot, running: set[str], finished: Iterable[str]) -> None:
        if not slot.unseen.isdisjoint(running):
            slot.worker.life.worked()
        for request_id in (slot.running - running).union(finished):
            self._forget(request_id, slot)
        slot.unseen -= running
        slot.unseen.difference_update(finished)
        slot.running = running

    def _choose(self, model: str, excluded: Container[str], now: float) -> Slot:
        """An online worker's slot; a suspect's where no other has the model, full or not."""
        wait: float | None = None
        for table in (self._online, self._suspect):
            candidates = table.get(model)
            if candidates is None:
                continue
            slot = candidates.choose(excluded)
            if slot is not None:
                return slot
            if any(other.worker.id not in excluded for other in candidates):
                wait = candidates.wait(now)
                break
        if wait is None:
            raise NoWorker(model=model)
        raise NoWorker(model=model, wait_seconds=ceil(wait))

    def _release(self, request_id: str) -> None:
        pick = self._picks.pop(request_id, None)
        if pick is not None:
            pick.slot.unseen.discard(request_id)
            pick.slot.running.discard(request_id)
            _touch(pick.slot)

    def _forget(self, request_id: str, slot: Slot) -> None:
        pick = self._picks.get(request_id)
        if pick is not None and pick.slot is slot:
            del self._picks[request_id]

    def _stand(self, slot: Slot, table: dict[str, Candidates] | None) -> None:
        """Has the slot be in `table` and nowhere else."""
        wanted = None
        if table is not None:
            wanted = table.get(slot.model) or table.setdefault(slot.model, Candidates(self._random))
        if slot.candidates is not wanted:
            self._withdraw(slot)
            if wanted is not None:
                wanted.add(slot)
        _touch(slot)

    def _withdraw(self, slot: Slot) -> None:
        candidates = slot.candidates
        if candidates is None:
            return
        candidates.remove(slot)
        if not candidates:
            for table in self._tables.values():
                if table.get(slot.model) is candidates:
                    del table[slot.model]

    def _drop(self, slot: Slot) -> None:
        self._withdraw(slot)
        for request_id in slot.running | slot.unseen:
            self._forget(request_id, slot)
        del slot.worker.slots[slot.id]


def _touch(*slots: Slot) -> None:
    for slot in slots:
        if slot.candidates is not None:
            slot.candidates.touch(slot)
