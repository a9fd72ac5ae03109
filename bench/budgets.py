"""What we have promised ourselves, and whether the figures of a run keep it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.cases import CASES
from bench.runs import OURS, Comparison, number
from bench.tables import Table

_CASES = {case.name: case for case in CASES}
_PARTS = ("gateway", "inference", "billing", "auth", "gpu-scheduler", "worker")
"""Ours alone: a database server has the memory that it is given."""


@dataclass(frozen=True)
class Budget:
    measure: str
    unit: str
    first: float
    """What must hold."""
    goal: float
    """What it should come to."""
    value: Callable[[Comparison], float | None]
    """None where it was not measured."""

    def row(self, found: Comparison) -> Sequence[str] | None:
        value = self.value(found)
        if value is None:
            return None
        kept = "goal" if value <= self.goal else "first" if value <= self.first else "**missed**"
        limits = (f"≤ {limit:g} {self.unit}" for limit in (self.first, self.goal))
        return [self.measure, *limits, f"**{number(value)} {self.unit}**", kept]


def _cost(case: str) -> Callable[[Comparison], float | None]:
    return lambda found: found.median(OURS, _CASES[case], lambda one: one.cost_us)


def _first_byte(found: Comparison) -> float | None:
    added = found.added(
        OURS, _CASES["paced-16"], lambda one: one.answered.first_byte_us["p50"] or None
    )
    return None if added is None else added / 1000


def _memory(found: Comparison) -> float | None:
    """Of the largest process of ours, at any time of the run."""
    sizes = (
        memory.largest
        for one in found.measured
        if one.target == OURS
        for part, memory in one.memory_by_part.items()
        if part in _PARTS
    )
    return max(sizes, default=None)


BUDGETS = (
    Budget("JSON, 64 at a time, processor time", "µs", 200, 64, _cost("json-64")),
    Budget("JSON, 1 at a time, processor time", "µs", 700, 190, _cost("json-1")),
    Budget("paced chunk, 64 streams, processor time", "µs", 60, 35, _cost("paced-64")),
    Budget("burst chunk, 16 streams, processor time", "µs", 25, 8, _cost("burst-16")),
    Budget("added time to first byte, 16 paced streams, p50", "ms", 3, 1.2, _first_byte),
    Budget("memory of the largest process of ours", "MB", 120, 80, _memory),
)


def budgets(found: Comparison) -> Sequence[Table]:
    """One table, or none where nothing of it was measured."""
    rows = [row for budget in BUDGETS if (row := budget.row(found))]
    columns = ["", "first (must)", "goal", "measured", "within"]
    return [Table("Vlinders against its own budget", columns, rows)] if rows else []
