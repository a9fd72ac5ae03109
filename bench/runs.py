"""All that one run has measured, and the figures that are told of it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.cases import Case
from bench.measuring import Measured

OURS, DIRECT = "ours", "direct"

Value = Callable[[Measured], float | None]
"""What is looked at of one window; None where it has none."""


@dataclass(frozen=True)
class Comparison:
    """All that one run has measured, and the targets that it could not."""

    measured: Sequence[Measured]
    absent: Mapping[str, str]
    """Target → why it is not there."""

    @property
    def cases(self) -> list[Case]:
        """In the order in which they were measured first."""
        return list(dict.fromkeys(found.case for found in self.measured))

    @property
    def rounds(self) -> str:
        """How many there were; an interrupted run has fewer of some cases."""
        counts = Counter((found.target, found.case) for found in self.measured).values()
        least, most = min(counts), max(counts)
        if least < most:
            return f"{least} to {most} rounds"
        return f"{most} rounds" if most > 1 else "one round"

    def over_rounds(self, target: str, case: Case, value: Value) -> list[float]:
        """A value of each round, in their order, of those rounds that have it."""
        values = (value(found) for found in self._of(target, case))
        return [number for number in values if number is not None]

    def median(self, target: str, case: Case, value: Value) -> float | None:
        values = self.over_rounds(target, case, value)
        return median(values) if values else None

    def added(self, target: str, case: Case, latency: Value) -> float | None:
        """What the target adds to a latency, in the median over the rounds."""
        pairs = zip(self._of(target, case), self._of(DIRECT, case), strict=False)
        added = [
            through - without
            for one, other in pairs
            if (through := latency(one)) is not None and (without := latency(other)) is not None
        ]
        return median(added) if added else None

    def ratio(self, one: str, other: str, case: Case) -> float | None:
        """How many times what `other` costs `one` does, in the median over the rounds."""
        pairs = zip(self._of(one, case), self._of(other, case), strict=False)
        ratios = [a.cost_us / b.cost_us for a, b in pairs if a.cost_us and b.cost_us]
        return median(ratios) if ratios else None

    def _of(self, target: str, case: Case) -> list[Measured]:
        return [found for found in self.measured if (found.target, found.case) == (target, case)]


def number(value: float) -> str:
    """With as many digits as mean something here: two below ten, none from a hundred on."""
    size = abs(value)
    digits = 2 if size < 1 else 1 if size < 100 else 0
    return f"{value:,.{digits}f}"
