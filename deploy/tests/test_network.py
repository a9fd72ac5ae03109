"""The network policies: who reaches whom, and that nobody else does."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from .manifests import RENDERS, Cluster, Workload, rendered, selects

pytestmark = pytest.mark.skipif(
    not RENDERS, reason="MANIFESTS ARE NOT RENDERED: that needs kubectl, for its kustomize"
)

Reach = set[tuple[str, str, int]]
"""Who, whom, at which port."""

INSIDE: Reach = {
    *(("gateway", part, 50051) for part in ("auth", "billing", "inference", "gpu-scheduler")),
    ("gateway", "inference", 50052),
    *(("inference", part, 50051) for part in ("billing", "gpu-scheduler")),
    ("inference", "worker", 9200),
    ("worker", "gpu-scheduler", 50051),
}
"""Between parts of ours: each of these is a call that architecture.md shows."""

WATCHED = {name for caller, called, _ in INSIDE for name in (caller, called)}

DATABASES = ("auth", "billing", "gpu-scheduler", "inference", "migration")


def test_parts_reach_whom_they_call_and_nobody_else() -> None:
    in_cluster = {("gateway", "redis", 6379), ("gateway", "postgres", 5432)}
    in_cluster |= {(part, "postgres", 5432) for part in DATABASES}
    assert _reach(rendered("dev")) == INSIDE | in_cluster


def test_in_production_too() -> None:
    workers = {tuple("gpu-worker" if n == "worker" else n for n in row) for row in INSIDE}
    watching = {
        ("prometheus", name, 9464) for name in ("edge", *WATCHED - {"worker"}, "gpu-worker")
    }
    seen = {("edge", "gateway", 8080), ("grafana", "prometheus", 9090)}
    assert _reach(rendered("prod")) == workers | watching | seen


def test_only_the_edge_is_reached_from_outside() -> None:
    assert _open_to_all(rendered("dev")) == {("gateway", 8080)}
    assert _open_to_all(rendered("prod")) == {("edge", 8080), ("edge", 8443)}


def test_what_is_outside_is_reached_by_whom_it_concerns() -> None:
    dev = {(name, port) for name, _, port in _leads_out(rendered("dev"))}
    assert dev == {("inference", 443)}
    prod = {(name, port) for name, _, port in _leads_out(rendered("prod"))}
    brokers = {"auth", "billing", "gateway", "gpu-scheduler", "inference"}
    assert prod == {
        ("inference", 443),
        ("gateway", 6379),
        ("auth", 443),
        ("auth", 587),
        ("prometheus", 9093),
        *((part, 5432) for part in DATABASES),
        *((part, port) for part in brokers for port in (9092, 9093)),
    }


def test_figures_are_read_by_a_prometheus_of_the_cluster_where_it_is_told_that_they_are() -> None:
    prod = rendered("prod")
    told = [pod for pod in prod.workloads if "metrics" in pod.ports]
    assert {pod.part for pod in told} == {*WATCHED, "edge"}
    seen = {
        (pod.name, port)
        for pod in prod.workloads
        for policy in _policies(prod, pod)
        for row, port in _rules(policy, "ingress")
        if row is not None and "namespaceSelector" in row
    }
    assert seen == {(pod.name, pod.ports["metrics"]) for pod in told}
    for pod in told:
        notes = pod.object["spec"]["template"]["metadata"]["annotations"]
        assert notes["prometheus.io/port"] == str(pod.ports["metrics"])


def test_no_name_of_a_provider_leads_into_the_cluster() -> None:
    private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}
    private |= {"fc00::/7", "fe80::/10"}
    led_out = [(name, block) for name, block, port in _leads_out(rendered("prod")) if port == 443]
    for part in ("auth", "inference"):
        blocks = [block["ipBlock"] for name, block in led_out if name == part]
        assert {network for block in blocks for network in block["except"]} >= private


def test_a_pod_that_nobody_thought_of_reaches_nothing() -> None:
    for overlay in ("dev", "prod"):
        rows = [
            policy["spec"]
            for policy in rendered(overlay).of("NetworkPolicy")
            if selects(policy["spec"]["podSelector"], {"app.kubernetes.io/name": "stranger"})
        ]
        assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in rows
        allowed = [
            peer for row in rows for peer in (*_rules(row, "ingress"), *_rules(row, "egress"))
        ]
        assert {port for _, port in allowed} == {53}


def _reach(cluster: Cluster) -> Reach:
    """Whom each pod reaches: its own policies must let it out, and the other's let it in."""
    pods = [*cluster.workloads, *cluster.jobs]
    return {
        (_name(one), _name(other), port)
        for one in pods
        for other in pods
        for port in other.ports.values()
        if _lets(cluster, one, "egress", other, port)
        and _lets(cluster, other, "ingress", one, port)
    }


def _name(pod: Workload) -> str:
    return "migration" if pod.kind == "Job" else pod.name


def _lets(cluster: Cluster, pod: Workload, way: str, peer: Workload, port: int) -> bool:
    return any(
        port == number and (row is None or _is_peer(row, peer.labels))
        for policy in _policies(cluster, pod)
        for row, number in _rules(policy, way)
    )


def _policies(cluster: Cluster, pod: Workload) -> list[Any]:
    policies = (policy["spec"] for policy in cluster.of("NetworkPolicy"))
    return [policy for policy in policies if selects(policy["podSelector"], pod.labels)]


def _rules(policy: Mapping[str, Any], way: str) -> Iterator[tuple[Any, int]]:
    """Peer (None is anybody) and port of all that a policy allows."""
    for rule in policy.get(way, ()):
        for row in rule.get("from" if way == "ingress" else "to", [None]):
            for port in rule["ports"]:
                yield row, port["port"]


def _is_peer(row: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    inside = "podSelector" in row and "namespaceSelector" not in row
    return inside and selects(row["podSelector"], labels)


def _open_to_all(cluster: Cluster) -> set[tuple[str, int]]:
    return {
        (_name(pod), port)
        for pod in [*cluster.workloads, *cluster.jobs]
        for policy in _policies(cluster, pod)
        for row, port in _rules(policy, "ingress")
        if row is None or "ipBlock" in row
    }


def _leads_out(cluster: Cluster) -> list[tuple[str, Any, int]]:
    """Whom each pod reaches that is none of ours, but for the name service."""
    return [
        (_name(pod), row, port)
        for pod in [*cluster.workloads, *cluster.jobs]
        for policy in _policies(cluster, pod)
        for row, port in _rules(policy, "egress")
        if (row is None or "podSelector" not in row) and port != 53
    ]
