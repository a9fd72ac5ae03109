"""The tables of the targets side by side: costs, ratios, latencies, rates, memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median

from bench.budgets import budgets
from bench.cases import Case
from bench.measuring import Measured
from bench.runs import DIRECT, OURS, Comparison, Value, number
from bench.tables import Table
from bench.targets import TARGETS

_NOTHING = "–"
_RATIOS = (
    ("LiteLLM : us", "litellm", OURS),
    ("Portkey : us", "portkey", OURS),
    ("TensorZero : us", "tensorzero", OURS),
    ("us : Envoy", OURS, "envoy"),
)


def tables_of(measured: Sequence[Measured], absent: Mapping[str, str]) -> list[Table]:
    """What the page has of them."""
    found = Comparison(measured, absent)
    return [
        *budgets(found),
        _costs(found),
        _ratios(found),
        _latencies(found),
        _rates(found),
        *_of_ours(found),
    ]


def _costs(found: Comparison) -> Table:
    def cell(target: str, case: Case) -> str:
        values = found.over_rounds(target, case, lambda one: one.cost_us)
        if not values:
            return _NOTHING
        return f"**{number(median(values))}** ({number(min(values))}–{number(max(values))})"

    others = sorted(one.others for one in found.measured)
    return _by_case(
        "Processor time, µs a request (JSON) or chunk (streams):"
        f" median (least–most) of {found.rounds}",
        found,
        cell,
        notes=(
            "Of all processes of a target together; of Vlinders PostgreSQL, Valkey and an idle"
            " worker too. The provider's own is what an answer costs to be made.",
            f"Others kept {median(others):.2f} cores busy meanwhile in the median, "
            f"{others[-1]:.2f} at most.",
        ),
    )


def _ratios(found: Comparison) -> Table:
    rows = []
    for title, one, other in _RATIOS:
        ratios = [found.ratio(one, other, case) for case in found.cases]
        if any(ratios):
            cells = (_NOTHING if ratio is None else f"{number(ratio)} ×" for ratio in ratios)
            rows.append([title, *cells])
    columns = ["", *(case.title for case in found.cases)]
    return Table("The same as ratios, of the same round each, median", columns, rows)


def _latencies(found: Comparison) -> Table:
    def cell(target: str, case: Case) -> str:
        told = []
        for share in ("p50", "p99"):

            def latency(one: Measured, share: str = share) -> float | None:
                answered = one.answered
                of = answered.first_byte_us if one.case.stream else answered.latency_us
                return of[share] or None

            if target == DIRECT:
                told.append(found.median(target, case, latency))
            else:
                told.append(found.added(target, case, latency))
        return " / ".join(_NOTHING if one is None else number(one / 1000) for one in told)

    return _by_case(
        "Latency added to the provider's own, ms, p50 / p99: of whole answers (JSON), to the first"
        " byte (streams)",
        found,
        cell,
        notes=("The first row is the provider's own latency, not an addition.",),
    )


def _rates(found: Comparison) -> Table:
    def cell(target: str, case: Case) -> str:
        rate = found.median(target, case, lambda one: one.rate)
        failed = sum(found.over_rounds(target, case, lambda one: one.answered.failed))
        wrong = f", {failed:.0f} failed" if failed else ""
        return _NOTHING if rate is None else f"{number(rate)}{wrong}"

    return _by_case(
        "Requests (JSON) or chunks (streams) a second, and how many requests failed",
        found,
        cell,
        notes=(
            "The target, the provider and the load generator share the machine: a rate is what"
            " they do together, and of paced streams at most what the provider says.",
        ),
    )


def _of_ours(found: Comparison) -> Iterator[Table]:
    parts = {part for one in found.measured if one.target == OURS for part in one.seconds_by_part}
    costs = {
        part: [found.median(OURS, case, _cost_of(part)) for case in found.cases] for part in parts
    }
    rows = [
        [part, *(_NOTHING if cost is None else number(cost) for cost in costs[part])]
        for part in sorted(parts, key=lambda part: -max(cost or 0 for cost in costs[part]))
    ]
    if rows:
        title = "Where ours goes: µs a request or chunk, by part, median"
        yield Table(title, ["", *(case.title for case in found.cases)], rows)
    yield _memory(found)


def _cost_of(part: str) -> Value:
    return lambda one: one.seconds_by_part[part] / one.units * 1e6 if one.units else None


def _memory(found: Comparison) -> Table:
    last = {
        (one.target, part): memory
        for one in found.measured
        for part, memory in one.memory_by_part.items()
    }
    rows = []
    for target in TARGETS:
        memories = {part: memory for (name, part), memory in last.items() if name == target.name}
        if not memories:
            continue
        total = sum(memory.proportional for memory in memories.values())
        rows.append(
            [target.title, number(total), number(max(m.largest for m in memories.values()))]
        )
        if len(memories) > 1:
            rows += [
                [f"· {part}", number(memory.proportional), number(memory.largest)]
                for part, memory in sorted(memories.items(), key=lambda row: -row[1].proportional)
            ]
    return Table(
        "Memory at the end of the run, MB",
        ["", "all processes (PSS)", "largest process (RSS)"],
        rows,
        ("The worker's engines, idle here, are in its row: llama.cpp with two tiny models.",),
    )


def _by_case(
    title: str, found: Comparison, cell: Callable[[str, Case], str], notes: Sequence[str] = ()
) -> Table:
    """A row for each target, those that could not be measured too, a column for each case."""
    rows = []
    for target in TARGETS:
        if target.name in found.absent:
            why = f"{target.title}: NOT MEASURED, {found.absent[target.name]}"
            rows.append([why, *[_NOTHING] * len(found.cases)])
        elif any(one.target == target.name for one in found.measured):
            rows.append([target.title, *(cell(target.name, case) for case in found.cases)])
    return Table(title, ["", *(case.title for case in found.cases)], rows, notes)
