"""What benches have found, as tables, and their place in the page `README.md`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """A cell for each column; the first says what the row is about."""
    notes: Sequence[str] = ()
    """What a reader has to know to trust the table, a sentence each."""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"{self.title}: a row has not one cell for each column")

    def markdown(self) -> str:
        sides = ["---", *["---:" for _ in self.columns[1:]]]
        lines = [_line(row) for row in (self.columns, sides, *self.rows)]
        notes = ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join([f"**{self.title}**", "", *lines, *notes])


def written(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers of `name`. Raises ValueError where it has none."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    found = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", page, re.DOTALL)
    if found is None:
        raise ValueError(f"the page has no place for {name}: no line {begin}")
    return f"{page[: found.start()]}{begin}\n\n{text}\n\n{end}{page[found.end() :]}"


def write(page: Path, name: str, said: str, tables: Sequence[Table]) -> None:
    """Puts what was found under which conditions into its place in the page."""
    text = "\n\n".join([said, *(table.markdown() for table in tables)])
    page.write_text(written(page.read_text(), name, text))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
