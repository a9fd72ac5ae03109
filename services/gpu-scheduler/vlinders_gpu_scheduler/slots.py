"""Slots: one model on one worker, and what runs there as the scheduler counts it.

What is outstanding on a slot is what its worker last said runs there, and the picks that the worker
has not seen yet. Nothing is forgotten because time passes: counts that age out open the gate to
engines that are still full.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlinders_gpu_scheduler.candidates import Candidates
    from vlinders_gpu_scheduler.workers import Worker

WEIGHT = 0.1
"""Of the newest request in the mean of a slot's latency."""


@dataclass(eq=False, slots=True)
class Slot:
    worker: Worker
    id: str
    model: str
    parallel: int = 1
    """Requests that its engine runs at once."""

    capacity: int = 2
    """Requests that it may be given: some more, so that the engine is never without a next one."""

    running: set[str] = field(default_factory=set)
    """Ids of the requests that run there, by the worker's last report."""

    unseen: set[str] = field(default_factory=set)
    """Ids of the picks that the worker has not reported yet, neither as running nor as finished."""

    latency: float = 0.0
    """Mean seconds from pick to end of the last requests."""

    candidates: Candidates | None = None
    """Where it stands for picks; None where it stands nowhere."""

    position: int = 0
    entry: int = 0
    """Its place in `candidates`, and its newest entry there."""

    @property
    def outstanding(self) -> int:
        return len(self.running) + len(self.unseen) + len(self.worker.unplaced)

    @property
    def most(self) -> int:
        """Requests that it is given now: fewer while its worker is late."""
        return min(self.capacity, self.worker.most)

    @property
    def full(self) -> bool:
        return self.outstanding >= self.most

    @property
    def load(self) -> float:
        """What it would have to do with one request more, relative to what it does at once."""
        return (self.outstanding + 1) / self.parallel

    def took(self, seconds: float) -> None:
        self.latency += WEIGHT * (seconds - self.latency) if self.latency else seconds


def capacity_of(parallel: int, overcommit: float) -> int:
    """`parallel` and a share of it more, at least one."""
    return parallel + max(1, ceil(parallel * overcommit))
