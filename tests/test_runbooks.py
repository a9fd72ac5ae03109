"""The runbooks: what they name is there. Who follows one at night has no time to find out."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
SOURCES = "\n".join(
    path.read_text()
    for folder in ("kit", "gateway", "services", "worker", "deploy/embedded")
    for path in sorted((ROOT / folder).rglob("vlinders_*/**/*.py"))
)
OTHERS = {"pg_stat_activity", "pg_basebackup", "process_cpu_seconds_total", "round_robin"}
"""Words of PostgreSQL, Prometheus and gRPC."""

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def quoted(page: Path) -> set[str]:
    """The words that stand as code in its sentences, but for variables of the shell."""
    text = re.sub(r"^```.*?^```|\$\w+", "", page.read_text(), flags=re.M | re.S)
    return {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"[\w.]+", code)}


@pages
def test_metrics_are_those_that_parts_tell(page: Path) -> None:
    known = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.M))
    rules = (ROOT / "deploy" / "monitoring" / "rules.yaml").read_text()
    known |= set(re.findall(r"record: (\S+)", rules))
    named = {word for word in re.findall(r"\bvlinders_\w+", page.read_text()) if _metric(word)}
    assert named - known == set()


@pages
def test_events_and_fields_are_those_of_the_code(page: Path) -> None:
    words = {word for word in quoted(page) if re.fullmatch(r"[a-z]+(_[a-z]+)+", word)}
    missing = {word for word in words - OTHERS if not _metric(word) and word not in SOURCES}
    assert missing == set()


@pages
def test_reasons_are_those_that_are_told(page: Path) -> None:
    """A reason is the name of its error, in capitals."""
    errors = re.findall(r"^class (\w+)\(", SOURCES, re.M)
    known = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper() for name in errors}
    words = {word for word in quoted(page) if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", word)}
    told = {word for word in words if not word.startswith(("VLINDERS", "OTEL"))}
    assert told - known == set()


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def _metric(word: str) -> bool:
    """Beside metrics there are packages of that name."""
    return word.startswith("vlinders_") and f"\nfrom {word}" not in SOURCES
