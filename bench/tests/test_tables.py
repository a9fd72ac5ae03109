"""The tables say what was measured, and get into their place of the page."""

from pathlib import Path

import pytest

from bench.cases import CASES, Case
from bench.comparison import tables_of
from bench.measuring import Measured
from bench.plan import ROOT
from bench.processes import Memory
from bench.programs import Answered
from bench.registry import BENCHES
from bench.soak import Sample, slope
from bench.tables import Table, write, written

JSON = next(case for case in CASES if case.name == "json-64")
PACED = next(case for case in CASES if case.name == "paced-16")


def measured(
    target: str, case: Case, cost_us: float, *, p50_us: float = 100.0, failed: int = 0
) -> Measured:
    """A window of ten seconds with a thousand requests, or chunks, that cost so much each."""
    latency = {"p50": p50_us, "p90": p50_us, "p99": 2 * p50_us, "max": 2 * p50_us}
    errors = {"unconnected": 0, "status": failed, "broken": 0, "error_events": 0}
    answered = Answered(10.0, 1000, 1000, 1000, 0, latency, latency, errors, "")
    memory = Memory(resident=50.0, proportional=40.0, own=30.0, largest=50.0)
    return Measured(target, case, answered, {"gateway": cost_us / 1000}, {"gateway": memory}, 0.1)


def rows(tables: list[Table], title: str) -> dict[str, list[str]]:
    table = next(table for table in tables if table.title.startswith(title))
    return {row[0]: list(row[1:]) for row in table.rows}


def test_a_cost_is_the_median_of_the_rounds_with_its_spread() -> None:
    tables = tables_of([measured("ours", JSON, cost) for cost in (130, 110, 400)], {})

    assert rows(tables, "Processor time")["**Vlinders**, everything on"] == ["**130** (110–400)"]
    assert rows(tables, "Where ours goes")["gateway"] == ["130"]


def test_a_ratio_is_of_one_round() -> None:
    """When a neighbour made the second round dear for all, the ratio is what it was."""
    found = [
        measured(target, JSON, cost * noise)
        for noise in (1, 3, 1)
        for target, cost in (("ours", 100), ("envoy", 50), ("litellm", 8_000))
    ]

    ratios = rows(tables_of(found, {}), "The same as ratios")

    assert (ratios["LiteLLM : us"], ratios["us : Envoy"]) == (["80.0 ×"], ["2.0 ×"])


def test_latency_is_what_is_added_to_the_providers_own() -> None:
    found = [
        measured("direct", PACED, 5, p50_us=300),
        measured("ours", PACED, 50, p50_us=2_300, failed=2),
    ]

    tables = tables_of(found, {})

    latency = rows(tables, "Latency added")
    assert latency["the provider itself"] == ["0.30 / 0.60"]
    assert latency["**Vlinders**, everything on"] == ["2.0 / 4.0"]
    assert rows(tables, "Requests")["**Vlinders**, everything on"] == ["100, 2 failed"]


def test_a_peer_that_is_not_there_is_a_row_that_says_so() -> None:
    tables = tables_of([measured("ours", JSON, 100)], {"portkey": "there is no `node`"})

    [absent] = [row for row in rows(tables, "Processor time") if "Portkey" in row]
    assert absent.endswith("NOT MEASURED, there is no `node`")


def test_the_budget_says_what_it_is_within() -> None:
    def within(cost: float) -> str:
        table = tables_of([measured("ours", JSON, cost)], {})
        return rows(table, "Vlinders against")["JSON, 64 at a time, processor time"][-1]

    assert [within(cost) for cost in (64, 65, 201)] == ["goal", "first", "**missed**"]


def test_a_table_has_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="one cell for each column"):
        Table("title", ["", "a"], [["row"]])


def test_tables_get_between_their_markers_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- begin it -->\nold\n<!-- end it -->\nafter\n")

    for _ in range(2):
        write(page, "it", "Measured.", [Table("Title", ["", "a"], [["row", "1"]], ["A note."])])

    assert page.read_text() == (
        "before\n<!-- begin it -->\n\nMeasured.\n\n**Title**\n\n|  | a |\n| --- | ---: |\n"
        "| row | 1 |\n\n- A note.\n\n<!-- end it -->\nafter\n"
    )


def test_the_page_has_a_place_for_every_bench() -> None:
    page = (ROOT / "bench" / "README.md").read_text()
    for bench in BENCHES:
        assert written(page, bench.name, "text")


def test_a_slope_is_not_moved_by_one_step() -> None:
    steady = [Sample(n / 360, 100 + n / 360, 0) for n in range(60)]
    stepped = [Sample(n / 360, 100 + (5 if n > 55 else 0), 0) for n in range(60)]

    assert slope(steady) == pytest.approx(1)
    assert slope(stepped) == 0
