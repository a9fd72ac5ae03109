"""What a second gateway and a second replica of inference bring on the same machine."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.benches import Bench
from bench.cases import CASES, Case
from bench.measuring import in_turn
from bench.plan import Plan, say
from bench.programs import compiled, provider
from bench.runs import Comparison, number
from bench.tables import Table
from bench.targets import ours

ONE, TWO = "one of each", "two of each"
_REPLICAS = {ONE: "", TWO: "gateway=2 inference=2"}
_CASES = [case for case in CASES if case.name in ("json-16", "json-64", "burst-16", "paced-256")]


def run(plan: Plan) -> Sequence[Table]:
    programs = compiled(plan.folder)
    with ExitStack() as stack, TemporaryDirectory(prefix="bench-") as made:
        behind = stack.enter_context(provider(programs))
        there = {}
        for name, replicas in _REPLICAS.items():
            say(f"starting {name}")
            folder = Path(made) / name.split()[0]
            folder.mkdir()
            there[name] = stack.enter_context(ours.stack(behind, folder, replicas=replicas))
        measured = in_turn(programs, there, _CASES, plan)
    return [_table(Comparison(measured, {}))]


def _table(found: Comparison) -> Table:
    return Table(
        "One gateway and one replica of inference, and two of each: median",
        ["", "µs, one", "µs, two", "a second, one", "a second, two", "growth", "cores, two"],
        [_row(found, case) for case in found.cases],
        (
            "The load generator, the provider, PostgreSQL and billing share the machine's cores"
            " with what is doubled: where the cores of `two` come near to what there is, this shows"
            " where the machine ends and not the platform.",
        ),
    )


def _row(found: Comparison, case: Case) -> list[str]:
    costs = [found.median(name, case, lambda one: one.cost_us) or 0 for name in (ONE, TWO)]
    rates = [found.median(name, case, lambda one: one.rate) or 0 for name in (ONE, TWO)]
    cores = found.median(TWO, case, lambda one: one.cores) or 0
    growth = rates[1] / rates[0] if rates[0] else 0
    return [case.title, *map(number, (*costs, *rates)), f"{number(growth)} ×", number(cores)]


BENCH = Bench("growth", "one gateway and one replica of inference, and two of each", run)
