"""Standby: which worker serves a request while the scheduler is silent, by its last table."""

import time
from collections.abc import Sequence

from vlinders.gpu_scheduler.v1.picks_pb2 import StandbyTable, Target
from vlinders_inference.errors import NoCapacity

STANDBY_SECONDS = 5.0
"""How long a table does that says nothing else."""

_Slot = tuple[str, str]
"""Ids of a worker and of a slot there."""


class Standby:
    """The scheduler's last table, and what this replica has begun and ended since.

    A slot gets no more than it has room for, as far as can be seen from here: other replicas have
    the same table, and nobody tells of what they do with it.
    """

    def __init__(self) -> None:
        self._table = StandbyTable()
        self._until = 0.0
        self._slots: dict[str, _Slot] = {}
        """Where requests of this replica are."""
        self._since: dict[_Slot, int] = {}
        """How many more they are than when the table was made; fewer, if negative."""

    @property
    def holds(self) -> bool:
        return time.monotonic() < self._until

    def replace(self, table: StandbyTable) -> None:
        lifetime = table.lifetime.ToTimedelta().total_seconds() or STANDBY_SECONDS
        self._table = table
        self._until = time.monotonic() + lifetime
        self._since.clear()

    def pick(self, model: str, excluded: Sequence[str]) -> Target:
        """The slot with the least load for its width. Raises NoCapacity."""
        best, least = None, 0.0
        if self.holds:
            for entry in self._table.entries:
                if entry.model != model or entry.target.worker_id in excluded:
                    continue
                outstanding = entry.outstanding + self._since.get(_slot(entry.target), 0)
                load = outstanding / max(entry.parallel, 1)
                full = 0 < entry.capacity <= outstanding
                if not full and (best is None or load < least):
                    best, least = entry.target, load
        if best is None:
            raise NoCapacity(model=model)
        return best

    def begin(self, request_id: str, target: Target) -> None:
        """The request goes to `target`, whoever has picked that. It is nowhere else."""
        slot = self._slots[request_id] = _slot(target)
        self._since[slot] = self._since.get(slot, 0) + 1

    def end(self, request_id: str) -> None:
        """The request is nowhere any more; it need not have begun."""
        slot = self._slots.pop(request_id, None)
        if slot is not None:
            self._since[slot] = self._since.get(slot, 0) - 1


def _slot(target: Target) -> _Slot:
    return target.worker_id, target.slot_id
