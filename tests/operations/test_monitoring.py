"""Rules, dashboards and runbooks: each alert fires when it should, each query finds something."""

import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import yaml

from tests.operations.conftest import Operated
from tests.platform import User, eventually
from vlinders_kit.embedded.programs import free_port

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "rules.yaml"
TESTS = MONITORING / "rules_test.yaml"
DASHBOARDS = {path.name: path.read_text() for path in (MONITORING / "dashboards").glob("*.json")}

QUIET = {
    "vlinders_events_dead_total",
    "vlinders_billing_requests_flagged_total",
    "vlinders:slow_first_tokens:ratio_rate1h",
}
"""What has nothing to tell while all is well, or not within the seconds of a test."""


def need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        warnings.warn(f"{program} is missing: apt install prometheus", stacklevel=2)
        pytest.skip(f"{program} is missing: nothing holds the rules to what they are for")
    return found


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return {rule["alert"]: rule for rule in rules if "alert" in rule}


@pytest.mark.filterwarnings("default:.*is missing")
def test_the_rules_are_rules_and_do_what_they_say() -> None:
    promtool = need("promtool")
    subprocess.run([promtool, "check", "rules", RULES], check=True, capture_output=True)
    tested = subprocess.run([promtool, "test", "rules", TESTS], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_seen_to_fire_and_to_keep_silent() -> None:
    seen: dict[str, set[bool]] = {}
    for case in yaml.safe_load(TESTS.read_text())["tests"]:
        for expected in case["alert_rule_test"]:
            seen.setdefault(expected["alertname"], set()).add(bool(expected["exp_alerts"]))
    assert seen == {name: {True, False} for name in alerts()}


def test_every_alert_says_what_is_wrong_and_leads_to_a_runbook() -> None:
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("page", "ticket"), name
        assert rule["annotations"]["summary"].endswith("."), name
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.M)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, name


def test_the_dashboards_are_those_that_the_code_describes(tmp_path: Path) -> None:
    copied = tmp_path / "dashboards.py"
    copied.write_text((MONITORING / "dashboards.py").read_text())
    subprocess.run([sys.executable, copied], check=True, capture_output=True)
    written = {path.name: path.read_text() for path in (tmp_path / "dashboards").iterdir()}
    assert written == DASHBOARDS


@pytest.fixture(scope="session")
async def prometheus(
    operated: Operated, loaded: User, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """A real Prometheus that scrapes the stack and has our rules, once it has seen all of it."""
    program, folder, port = need("prometheus"), tmp_path_factory.mktemp("prometheus"), free_port()
    jobs = [
        {
            "job_name": part,
            "static_configs": [{"targets": [each["metrics"] for each in processes]}],
        }
        for part, processes in operated.stack.access["parts"].items()
        if all("metrics" in each for each in processes)
    ]
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    told = {"global": every, "rule_files": [str(folder / "rules.yaml")], "scrape_configs": jobs}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(told))
    (folder / "rules.yaml").write_text(RULES.read_text().replace("interval: 30s", "interval: 1s"))
    command = [
        program,
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    async with (
        await anyio.open_process(command, stdout=None, stderr=subprocess.DEVNULL) as process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
    ):
        try:
            await eventually(lambda: _seen(http, len(jobs)), seconds=60)
            yield http
        finally:
            process.terminate()


async def _seen(http: httpx.AsyncClient, jobs: int) -> bool:
    """Twice, as a rate wants it."""
    try:
        found = await ask(http, "count(sum_over_time(up[5m]) >= 4)")
        evaluated = await ask(http, "vlinders:loop_lag_seconds:p99_rate5m")
    except httpx.HTTPError:
        return False
    return bool(found) and int(found[0]["value"][1]) >= jobs and len(evaluated) >= jobs


async def ask(http: httpx.AsyncClient, query: str) -> list[dict[str, Any]]:
    answer = await http.get("/api/v1/query", params={"query": query})
    if answer.status_code == 503:  # it is still starting
        return []
    assert answer.json()["status"] == "success", (query, answer.text)
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


@pytest.mark.filterwarnings("default:.*is missing")
@pytest.mark.parametrize("name", sorted(DASHBOARDS))
async def test_every_query_of_a_dashboard_finds_something(
    prometheus: httpx.AsyncClient, name: str
) -> None:
    empty = []
    for panel in json.loads(DASHBOARDS[name])["panels"]:
        for target in panel["targets"]:
            found = await ask(prometheus, target["expr"])
            if not found and not any(each in target["expr"] for each in QUIET):
                empty.append((panel["title"], target["expr"]))
    assert empty == []


@pytest.mark.filterwarnings("default:.*is missing")
async def test_no_rule_asks_for_what_nobody_tells(prometheus: httpx.AsyncClient) -> None:
    """A rule on a metric that was renamed would keep silent for ever."""
    known = set((await prometheus.get("/api/v1/label/__name__/values")).json()["data"])
    named = {
        name
        for rule in yaml.safe_load(RULES.read_text())["groups"]
        for each in rule["rules"]
        for name in re.findall(r"\b(?:vlinders|process)[_:][\w:]+", each["expr"])
    }
    assert named - known - QUIET == set()
