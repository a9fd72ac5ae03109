"""Figures: what tests have measured, told together at the end of a run, and kept where asked.

    def test_who_leaves_frees_the_engine(figure):
        figure("engine stops after a client left, slowest", 0.4, "s", must="≤ 1 s")

VLINDERS_FIGURES names a file that gets them as a Markdown table.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import pytest

_PROPERTY = "vlinders figure"
_COLUMNS = ("figure", "value", "must be", "condition", "test")


class Figure(Protocol):
    def __call__(
        self, name: str, value: object, unit: str = "", *, must: str = "", condition: str = ""
    ) -> None:
        """Notes a figure: what it is, what it came to, what it must be, and when that was so."""


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    def note(
        name: str, value: object, unit: str = "", *, must: str = "", condition: str = ""
    ) -> None:
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        row = (name, f"{shown} {unit}".strip(), must, condition, request.node.name)
        # The one thing of a test that reaches the end of a run from any of its processes.
        request.node.user_properties.append((_PROPERTY, list(row)))

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = [
        tuple(map(str, row))
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, row in getattr(report, "user_properties", ())
        if name == _PROPERTY
    ]
    if not rows:
        return
    terminalreporter.section("figures")
    terminalreporter.write("\n".join(_aligned([_COLUMNS, *rows])) + "\n")
    if file := os.environ.get("VLINDERS_FIGURES"):
        Path(file).write_text(_markdown(rows))


def _aligned(rows: list[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()


def _markdown(rows: list[tuple[str, ...]]) -> str:
    told = [_COLUMNS, ("---",) * len(_COLUMNS), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in told)
