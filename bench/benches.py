"""All benches there are: each is a module that measures one thing and tells it as tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.plan import Plan
from bench.tables import Table


@dataclass(frozen=True)
class Bench:
    """One thing that is measured. The page has its place between the markers of `name`.

    `run` says how far it is with `bench.plan.say`, measures inside of `plan.alone()` in slices of
    90 s at most, leaves no process behind, and does less where `plan.quick`.
    """

    name: str
    about: str
    """What is measured, in a line."""
    run: Callable[[Plan], Sequence[Table]]
    by_default: bool = True
    """Whether `make bench` runs it; otherwise ONLY has to name it."""
    parts: frozenset[str] = frozenset()
    """Names of parts of it that ONLY may be narrowed to, as `plan.wants` asks."""

    def is_wanted(self, plan: Plan) -> bool:
        if not plan.only:
            return self.by_default
        return self.name in plan.only or bool(self.parts & plan.only)
