"""Targets under load, in turn, a window each: what was answered, and what it took."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bench.cases import Case
from bench.plan import Plan, say
from bench.processes import Memory, Snapshot, memory
from bench.programs import Answered, Programs, load
from bench.targets.target import Running

_QUIET_SHARE, _QUIET_SECONDS, _PATIENCE = 0.05, 0.2, 5.0


@dataclass(frozen=True)
class Measured:
    target: str
    case: Case
    answered: Answered
    seconds_by_part: dict[str, float]
    """Processor time within the window, of a part's processes with all their descendants."""
    memory_by_part: dict[str, Memory]
    """After the window."""
    others: float
    """Cores that were busy with what does not belong to the bench."""

    @property
    def units(self) -> int:
        return self.answered.events if self.case.stream else self.answered.whole

    @property
    def cost_us(self) -> float | None:
        """Processor time for each chunk or request; None where there was none."""
        return sum(self.seconds_by_part.values()) / self.units * 1e6 if self.units else None

    @property
    def rate(self) -> float:
        """Chunks or requests a second."""
        return self.units / self.answered.seconds

    @property
    def cores(self) -> float:
        """How many of them the target kept busy."""
        return sum(self.seconds_by_part.values()) / self.answered.seconds


def in_turn(
    programs: Programs,
    there: Mapping[str, Running],
    cases: Sequence[Case],
    plan: Plan,
    *options: str,
) -> list[Measured]:
    """Every target `there` under every case, in as many rounds as planned; a case is one slice.

    Who is first changes from round to round. Ctrl-C ends it, with what there is by then.
    """
    measured: list[Measured] = []

    def visit(case: Case, order: Sequence[str]) -> list[Measured]:
        found = []
        for name in order:
            found.append(measure(programs, name, there[name], case, plan, *options))
            say(told(found[-1]))
        return found

    try:
        for number in range(plan.rounds):
            first = number % len(there)
            order = [*list(there)[first:], *list(there)[:first]]
            for case in cases:
                say(f"-- round {number + 1} of {plan.rounds}: {case.title}")
                measured += plan.undisturbed(partial(visit, case, order))
    except KeyboardInterrupt:
        say("interrupted: the tables have what there is")
    return measured


def measure(
    programs: Programs, name: str, running: Running, case: Case, plan: Plan, *options: str
) -> Measured:
    """Loads the target `name` for one window, and waits until it is done with what was asked."""
    snapshots: list[Snapshot] = []
    answered = load(
        programs,
        running.door,
        case.body,
        *("-c", str(case.connections), "-d", str(plan.seconds), "-w", str(plan.warm_up)),
        *options,
        at_ends=lambda pid: snapshots.append(Snapshot.take()),
    )
    opened, closed = snapshots
    parts = running.parts()
    used = {part: closed.seconds(roots) - opened.seconds(roots) for part, roots in parts.items()}
    ours = {os.getpid(), *(pid for roots in parts.values() for pid in roots)}
    others = closed.busy - opened.busy - closed.seconds(ours) + opened.seconds(ours)
    memory_by_part = {part: memory(closed.tree(roots)) for part, roots in parts.items()}
    settle(running)
    return Measured(name, case, answered, used, memory_by_part, max(0.0, others / answered.seconds))


def settle(running: Running) -> None:
    """Returns when the target idles, after five seconds at the latest."""
    roots = [pid for pids in running.parts().values() for pid in pids]
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        before = Snapshot.take().seconds(roots)
        time.sleep(_QUIET_SECONDS)
        if Snapshot.take().seconds(roots) - before < _QUIET_SHARE * _QUIET_SECONDS:
            return


def told(found: Measured) -> str:
    """A line that shows how it went."""
    cost = "nothing" if found.cost_us is None else f"{found.cost_us:.1f} us"
    answered = found.answered
    wrong = f", {answered.failed} FAILED: {answered.first_error}" if answered.failed else ""
    return (
        f"{found.target}: {cost} a {found.case.unit}, {found.rate:.0f}/s,"
        f" first byte {answered.first_byte_us['p50'] / 1000:.2f} ms,"
        f" others {found.others:.2f} cores{wrong}"
    )
