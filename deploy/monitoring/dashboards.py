# ruff: noqa: E501 -- a query stands on a line
"""Grafana dashboards as code: `python deploy/monitoring/dashboards.py` writes them to `dashboards/`.

A panel is a title, a unit and queries; a dashboard is rows of panels. What Grafana wants beside that
is the same for all of them.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
WIDTH, HEIGHT, IN_A_ROW = 24, 8, 3
"""Of Grafana's grid."""

SOURCE = {"type": "prometheus", "uid": "${source}"}


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    queries: Mapping[str, str]
    """Legend → PromQL."""


def quantiles(metric: str, by: str = "") -> Mapping[str, str]:
    """The middle and the slow end of a histogram."""
    labels, legend = (f"{by}, le", f"{{{{{by}}}}} ") if by else ("le", "")
    return {
        f"{legend}p{round(q * 100)}": f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket[5m])))"
        for q in (0.5, 0.95, 0.99)
    }


def each_process(query: str) -> Mapping[str, str]:
    """A line for each process of any part."""
    return {"{{job}} {{instance}}": query}


def each_instance(query: str) -> Mapping[str, str]:
    """A line for each process of the part that tells it."""
    return {"{{instance}}": query}


DASHBOARDS: Mapping[str, Sequence[Panel]] = {
    "edge": (
        Panel(
            "Requests",
            "reqps",
            {"{{operation}}": "sum by (operation) (rate(vlinders_http_answered_total[5m]))"},
        ),
        Panel(
            "Answers by status",
            "reqps",
            {"{{status}}": "sum by (status) (rate(vlinders_http_answered_total[5m]))"},
        ),
        Panel(
            "Faults",
            "percentunit",
            {"5 minutes": "vlinders:faults:ratio_rate5m", "1 hour": "vlinders:faults:ratio_rate1h"},
        ),
        Panel("Time to the end of an answer", "s", quantiles("vlinders_http_seconds")),
        Panel("Running", "short", each_instance("vlinders_gateway_running")),
        Panel("Replicas of inference reached", "short", each_instance("vlinders_gateway_pipes")),
        Panel("Limits kept by share", "bool", each_instance("vlinders_gateway_limits_by_share")),
    ),
    "inference": (
        Panel(
            "Generations",
            "reqps",
            {
                "{{served_by}} {{outcome}}": "sum by (served_by, outcome) (rate(vlinders_inference_generations_total[5m]))"
            },
        ),
        Panel(
            "Time to first token",
            "s",
            quantiles("vlinders_inference_first_token_seconds", "served_by"),
        ),
        Panel("Time to the end", "s", quantiles("vlinders_inference_seconds", "served_by")),
        Panel(
            "Slow first tokens",
            "percentunit",
            {
                "5 minutes": "vlinders:slow_first_tokens:ratio_rate5m",
                "1 hour": "vlinders:slow_first_tokens:ratio_rate1h",
            },
        ),
        Panel(
            "Tokens",
            "short",
            {
                "{{served_by}} {{bucket}}": "sum by (served_by, bucket) (rate(vlinders_inference_tokens_total[5m]))"
            },
        ),
        Panel(
            "Engines that gave no answer",
            "reqps",
            {
                "{{served_by}}": "sum by (served_by) (rate(vlinders_inference_attempts_failed_total[5m]))"
            },
        ),
        Panel(
            "Refused",
            "reqps",
            {"{{reason}}": "sum by (reason) (rate(vlinders_inference_refused_total[5m]))"},
        ),
        Panel("Running", "short", each_instance("vlinders_inference_running")),
        Panel("Usage not written", "short", each_instance("vlinders_inference_usage_waiting")),
    ),
    "fleet": (
        Panel("Workers", "short", {"{{state}}": "sum by (state) (vlinders_gpu_scheduler_workers)"}),
        Panel(
            "Requests on the fleet",
            "short",
            {"outstanding": "sum(vlinders_gpu_scheduler_outstanding)"},
        ),
        Panel("Owner of the fleet", "bool", each_instance("vlinders_gpu_scheduler_active")),
        Panel("Engines", "short", {"{{instance}} {{state}}": "vlinders_worker_engines"}),
        Panel("Requests on workers", "short", each_instance("vlinders_worker_running")),
        Panel(
            "Requests that ended",
            "reqps",
            {
                "{{slot}} {{outcome}}": "sum by (slot, outcome) (rate(vlinders_worker_requests_total[5m]))"
            },
        ),
        Panel(
            "Tokens of engines",
            "short",
            {"{{slot}} {{kind}}": "sum by (slot, kind) (rate(vlinders_worker_tokens_total[5m]))"},
        ),
        Panel("Leases held", "bool", each_instance("vlinders_worker_lease_held")),
    ),
    "money": (
        Panel(
            "Charged",
            "short",
            {"units a second": "sum(rate(vlinders_billing_charged_nanos_total[5m])) / 1e9"},
        ),
        Panel(
            "Requests settled",
            "reqps",
            {"settled": "sum(rate(vlinders_billing_requests_settled_total[5m]))"},
        ),
        Panel(
            "Estimated",
            "percentunit",
            {
                "estimated": "sum(rate(vlinders_billing_requests_estimated_total[1h])) / sum(rate(vlinders_billing_requests_settled_total[1h]))"
            },
        ),
        Panel(
            "Flagged",
            "reqps",
            {"{{flag}}": "sum by (flag) (rate(vlinders_billing_requests_flagged_total[5m]))"},
        ),
        Panel(
            "Borne by the platform",
            "short",
            {"units an hour": "sum(increase(vlinders_billing_lost_nanos_total[1h])) / 1e9"},
        ),
        Panel(
            "From the end to the charge",
            "s",
            each_instance("vlinders_billing_settle_delay_seconds"),
        ),
        Panel(
            "Credit that is out",
            "short",
            {
                "lent, units": "max(vlinders_billing_credit_lent_nanos) / 1e9",
                "free, units": "sum(vlinders_inference_lease_free_nanos) / 1e9",
            },
        ),
        Panel(
            "Leases",
            "short",
            {
                "open": "max(vlinders_billing_leases_open)",
                "of replicas": "sum(vlinders_inference_leases)",
            },
        ),
        Panel(
            "Faults found in the ledger",
            "short",
            each_instance("vlinders_billing_ledger_findings"),
        ),
        Panel(
            "Since the ledger was proved",
            "s",
            {"age": "time() - max(vlinders_billing_ledger_proved_timestamp_seconds)"},
        ),
    ),
    "bus": (
        Panel("Outbox", "short", each_process("vlinders_outbox_events")),
        Panel("Oldest in the outbox", "s", each_process("vlinders_outbox_oldest_seconds")),
        Panel("Sent", "ops", {"{{job}}": "sum by (job) (rate(vlinders_outbox_sent_total[5m]))"}),
        Panel(
            "Taken", "ops", {"{{group}}": "sum by (group) (rate(vlinders_events_taken_total[5m]))"}
        ),
        Panel("Held up", "s", {"{{group}}": "vlinders_events_lag_seconds"}),
        Panel(
            "Given up",
            "ops",
            {"{{group}} {{type}}": "sum by (group, type) (rate(vlinders_events_dead_total[5m]))"},
        ),
    ),
    "runtime": (
        Panel("Up", "bool", each_process("up")),
        Panel("CPU", "percentunit", each_process("rate(process_cpu_seconds_total[5m])")),
        Panel("Memory", "bytes", each_process("process_resident_memory_bytes")),
        Panel(
            "Event loop late, p99",
            "s",
            each_process("vlinders:loop_lag_seconds:p99_rate5m"),
        ),
        Panel("File descriptors", "short", each_process("process_open_fds")),
        Panel(
            "Database connections", "short", {"{{job}} {{what}}": "vlinders_database_connections"}
        ),
        Panel(
            "RPCs",
            "reqps",
            {"{{method}} {{code}}": "sum by (method, code) (rate(vlinders_rpc_served_total[5m]))"},
        ),
        Panel(
            "Time of RPCs, p99",
            "s",
            {
                "{{method}}": "histogram_quantile(0.99, sum by (method, le) (rate(vlinders_rpc_seconds_bucket[5m])))"
            },
        ),
        Panel("Away", "bool", {"{{job}} {{of}}": "vlinders_away"}),
        Panel(
            "Versions",
            "short",
            {"{{service}} {{version}}": "count by (service, version) (vlinders_build_info)"},
        ),
    ),
}


def dashboard(name: str, panels: Sequence[Panel]) -> dict[str, Any]:
    """As Grafana reads it."""
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "uid": f"vlinders-{name}",
        "title": f"Vlinders: {name}",
        "tags": ["vlinders"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source]},
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def files() -> Iterator[tuple[Path, str]]:
    """Each dashboard's file, and what is to be in it."""
    for name, panels in DASHBOARDS.items():
        yield FOLDER / f"{name}.json", json.dumps(dashboard(name, panels), indent=1) + "\n"


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, IN_A_ROW)
    width = WIDTH // IN_A_ROW
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": SOURCE,
        "gridPos": {"x": column * width, "y": row * HEIGHT, "w": width, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + n), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for n, (legend, query) in enumerate(panel.queries.items())
        ],
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in files():
        path.write_text(text)
        sys.stdout.write(f"{path.name}\n")
