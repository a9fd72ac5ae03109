"""Candidates: which slots of one model are worth a look for a request, without looking at all.

They are the least loaded slot and a few at random. Here is where the owners of a request's prefix
will join them, and in `cost` the price of recomputing it.
"""

import heapq
from collections.abc import Callable, Container, Iterator, Sequence

from vlinders_gpu_scheduler.slots import Slot
from vlinders_gpu_scheduler.turns import Turns

AT_RANDOM = 2
"""Slots that are looked at beside the least loaded: among equals they let the faster one be found
without sending everything to it."""

Random = Callable[[], float]
"""From 0 to less than 1."""


def cost(slot: Slot) -> tuple[float, float]:
    """Less is better: load, then the time that requests took there."""
    return slot.load, slot.latency


class Candidates:
    """The slots of one model.

    The least loaded is kept by a heap in which a slot's old entries stay until they come up:
    whatever changes a slot calls `touch`. Full slots have no entry.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._slots: list[Slot] = []
        self._heap: list[tuple[float, int, Slot]] = []
        self._entries = 0
        self._turns = Turns()

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def add(self, slot: Slot) -> None:
        slot.candidates, slot.position = self, len(self._slots)
        self._slots.append(slot)
        self.touch(slot)

    def remove(self, slot: Slot) -> None:
        last = self._slots.pop()
        if last is not slot:
            self._slots[slot.position] = last
            last.position = slot.position
        slot.candidates, slot.entry = None, 0

    def touch(self, slot: Slot) -> None:
        """Takes in that the slot's load has changed."""
        if slot.full:
            slot.entry = 0
            return
        # Rising numbers break ties, so that equals take turns.
        self._entries += 1
        slot.entry = self._entries
        heapq.heappush(self._heap, (slot.load, self._entries, slot))
        if len(self._heap) > 2 * len(self._slots) + 64:
            self._heap = [row for row in self._heap if self._holds(row)]
            heapq.heapify(self._heap)

    def choose(self, excluded: Container[str]) -> Slot | None:
        """The best of the candidates that is not full and not on an excluded worker."""
        best = self._least(excluded)
        if best is None:
            return None
        for _ in range(AT_RANDOM):
            slot = self._slots[int(self._random() * len(self._slots))]
            if not slot.full and slot.worker.id not in excluded and cost(slot) < cost(best):
                best = slot
        return best

    def wait(self, now: float) -> float | None:
        """Seconds after which whoever finds all of them full should come again, where known."""
        return self._turns.next(self._slots, now)

    def sample(self, most: int) -> Sequence[Slot]:
        """At most so many slots, from a random one on: those that have room before the others."""
        first = int(self._random() * len(self._slots))
        turned = self._slots[first:] + self._slots[:first]
        return sorted(turned, key=lambda slot: slot.full)[:most]

    def _least(self, excluded: Container[str]) -> Slot | None:
        passed: list[tuple[float, int, Slot]] = []
        found = None
        while self._heap and found is None:
            row = self._heap[0]
            if not self._holds(row):
                heapq.heappop(self._heap)
            elif row[2].worker.id in excluded:
                passed.append(heapq.heappop(self._heap))
            else:
                found = row[2]
        for row in passed:
            heapq.heappush(self._heap, row)
        return found

    def _holds(self, row: tuple[float, int, Slot]) -> bool:
        return row[2].candidates is self and row[2].entry == row[1]
