"""What the parts tell Prometheus is what docs/metrics.md says, and nothing else.

`VLINDERS_WRITE=1` has the table written anew from what is scraped.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.operations.conftest import Operated
from tests.platform import User

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", re.M)
_LIBRARYS = ("process_", "python_")


@dataclass
class Row:
    kind: str
    text: str
    labels: set[str] = field(default_factory=set)
    parts: set[str] = field(default_factory=set)

    def written(self, name: str) -> str:
        labels = ", ".join(f"`{label}`" for label in sorted(self.labels))
        return (
            f"| `{name}` | {self.kind} | {labels} | {', '.join(sorted(self.parts))} | {self.text} |"
        )


async def scraped(operated: Operated) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    async with httpx.AsyncClient() as http:
        for part, processes in operated.stack.access["parts"].items():
            for process in processes:
                if "metrics" not in process:
                    continue
                answer = await http.get(f"http://{process['metrics']}/metrics")
                for family in text_string_to_metric_families(answer.text):
                    if family.name.startswith(_LIBRARYS):
                        continue
                    name = f"{family.name}_total" if family.type == "counter" else family.name
                    row = rows.setdefault(name, Row(family.type, family.documentation))
                    row.parts.add(part)
                    for sample in family.samples:
                        row.labels |= sample.labels.keys() - {"le"}
    return rows


def documented() -> dict[str, Row]:
    return {
        name: Row(kind, text, set(re.findall(r"\w+", labels)), set(parts.split(", ")))
        for name, kind, labels, parts, text in _ROW.findall(PAGE.read_text())
    }


async def test_what_is_told_is_what_is_documented(operated: Operated, loaded: User) -> None:
    found, known = await scraped(operated), documented()
    for name, row in found.items():
        row.labels |= known[name].labels if name in known else set()
    table = "\n".join(row.written(name) for name, row in sorted(found.items()))
    page = PAGE.read_text()
    written = "\n".join(row.written(name) for name, row in sorted(known.items()))
    if os.environ.get("VLINDERS_WRITE"):
        head = page[: page.index("| --- |")].rsplit("\n", 1)[0]
        PAGE.write_text(f"{head}\n| --- | --- | --- | --- | --- |\n{table}\n")
        return
    assert written == table


async def test_names_are_as_prometheus_wants_them(operated: Operated, loaded: User) -> None:
    for name, row in (await scraped(operated)).items():
        assert name.startswith("vlinders_"), name
        assert name.endswith("_total") == (row.kind == "counter"), name
        assert not re.search(r"_(ms|millis|minutes|kb|mb)(_|$)", name), name
        assert row.text.endswith("."), name


async def test_metrics_have_no_label_of_a_clients_own_choice(
    operated: Operated, loaded: User
) -> None:
    """Else any client could fill the memory of a part, and of Prometheus."""
    every = {label for row in (await scraped(operated)).values() for label in row.labels}
    assert every <= {
        "bucket",
        "code",
        "flag",
        "group",
        "kind",
        "method",
        "model",
        "of",
        "operation",
        "outcome",
        "reason",
        "served_by",
        "service",
        "slot",
        "state",
        "status",
        "type",
        "version",
        "what",
    }
