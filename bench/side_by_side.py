"""Ourselves and the peers in front of one provider, visited in turn in every round."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.benches import Bench
from bench.cases import CASES
from bench.comparison import tables_of
from bench.measuring import in_turn
from bench.peers import Absent
from bench.plan import Plan, say
from bench.programs import Programs, compiled, load, provider
from bench.tables import Table
from bench.targets import TARGETS
from bench.targets.target import Running
from vlinders_kit.embedded.programs import NotServing

_CASES = frozenset(case.name for case in CASES)
_TARGETS = frozenset(target.name for target in TARGETS)


def run(plan: Plan) -> Sequence[Table]:
    programs = compiled(plan.folder)
    cases = [case for case in CASES if plan.wants(case.name, _CASES)]
    with ExitStack() as stack, TemporaryDirectory(prefix="bench-") as folder:
        there, absent = _started(stack, programs, Path(folder), plan)
        measured = in_turn(programs, there, cases, plan)
    return tables_of(measured, absent)


def _started(
    stack: ExitStack, programs: Programs, folder: Path, plan: Plan
) -> tuple[dict[str, Running], dict[str, str]]:
    """The targets that run from now on, and why the others do not."""
    behind = stack.enter_context(provider(programs))
    there, absent = {}, {}
    for target in TARGETS:
        if not plan.wants(target.name, _TARGETS):
            continue
        say(f"starting {target.name}")
        try:
            running = stack.enter_context(target.start(behind, folder))
            _warm_up(programs, running)
            there[target.name] = running
        except (Absent, NotServing) as error:
            absent[target.name] = str(error).splitlines()[0]
            say(f"!! {target.name} IS LEFT OUT: {error}")
    return there, absent


def _warm_up(programs: Programs, running: Running) -> None:
    """Asks for a few seconds. Raises Absent where a kind of request is not answered at all."""
    for case in (CASES[0], CASES[-1]):
        found = load(programs, running.door, case.body, "-c", "4", "-d", "3", "-w", "1")
        if not found.whole:
            raise Absent(f"answers nothing to {case.name}: {found.first_error}")


BENCH = Bench(
    "side-by-side",
    "a request and a chunk, ours and the peers'",
    run,
    parts=_CASES | _TARGETS,
)
