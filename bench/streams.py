"""How many streams of fifty tokens a second, the pace of a good engine, a core carries."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.benches import Bench
from bench.cases import Case
from bench.measuring import Measured, in_turn
from bench.plan import Plan
from bench.programs import compiled, provider
from bench.runs import DIRECT, OURS, Comparison, number
from bench.tables import Table
from bench.targets import direct, ours

TOKENS_A_SECOND = 50
_MODEL = "mock-150-20"
"""Streams of three seconds, one token every 20 ms."""
_CASES = [
    Case(f"streams-{count}", f"{count} streams", count, _MODEL, stream=True)
    for count in (64, 128, 256, 512, 1024)
]


def run(plan: Plan) -> Sequence[Table]:
    programs = compiled(plan.folder)
    with ExitStack() as stack, TemporaryDirectory(prefix="bench-") as made:
        behind = stack.enter_context(provider(programs))
        folder = Path(made)
        there = {
            DIRECT: stack.enter_context(direct.TARGET.start(behind, folder)),
            OURS: stack.enter_context(ours.stack(behind, folder, (_MODEL,))),
        }
        # a stream lasts three seconds: when the window opens all of them have begun
        measured = in_turn(programs, there, _CASES, plan, "-w", "4")
    return [_table(Comparison(measured, {}))]


def _table(found: Comparison) -> Table:
    return Table(
        f"Streams of {TOKENS_A_SECOND} tokens a second",
        ["", "delivered", "µs a chunk", "cores", "streams a core", "added to first byte, p50"],
        [_row(found, case) for case in sorted(found.cases, key=lambda case: case.connections)],
        (
            "Delivered is the share of the chunks that come without us; below 99 % the machine is"
            " full, which the load generator and the provider are on as well.",
        ),
    )


def _row(found: Comparison, case: Case) -> list[str]:
    def first_byte(one: Measured) -> float | None:
        return one.answered.first_byte_us["p50"] or None

    rate = found.median(OURS, case, lambda one: one.rate) or 0
    due = found.median(DIRECT, case, lambda one: one.rate) or 0
    cores = found.median(OURS, case, lambda one: one.cores) or 0
    cost = found.median(OURS, case, lambda one: one.cost_us) or 0
    added = found.added(OURS, case, first_byte) or 0
    a_core = rate / TOKENS_A_SECOND / cores if cores else 0
    return [
        case.title,
        f"{rate / due:.1%}" if due else "–",
        *map(number, (cost, cores)),
        f"{a_core:.0f}",
        f"{number(added / 1000)} ms",
    ]


BENCH = Bench("streams", "streams of 50 tokens a second on a core", run)
