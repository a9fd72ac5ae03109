"""Prometheus and Grafana on a cluster: told where everything is, and all of it is there."""

import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from .manifests import K8S, RENDERS, Cluster, Workload, rendered, selects

pytestmark = [
    pytest.mark.skipif(
        not RENDERS, reason="MANIFESTS ARE NOT RENDERED: that needs kubectl, for its kustomize"
    ),
    pytest.mark.filterwarnings("default:.*is missing"),
]

MONITORING = K8S.parent / "monitoring"


@pytest.fixture
def cluster() -> Cluster:
    return rendered("prod")


def test_prometheus_takes_its_configuration_with_the_rules(
    cluster: Cluster, tmp_path: Path
) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        warnings.warn("promtool is missing: apt install prometheus", stacklevel=1)
        pytest.skip("promtool is missing: nothing reads the configuration of Prometheus")
    for folder, files in _mounted(cluster, _workload(cluster, "prometheus")).items():
        (tmp_path / folder.name).mkdir()
        for name, text in files.items():
            here = text.replace(str(folder.parent), str(tmp_path))
            (tmp_path / folder.name / name).write_text(here)
    told = tmp_path / "config" / "prometheus.yaml"
    done = subprocess.run([promtool, "check", "config", told], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "rules" / "rules.yaml").read_text() == (
        MONITORING / "rules.yaml"
    ).read_text()
    assert yaml.safe_load((tmp_path / "alertmanagers" / "alertmanagers.yaml").read_text())


def test_every_pod_is_scraped_under_the_name_of_its_part(cluster: Cluster) -> None:
    """Those too that are not ready, by a Service that no client finds."""
    scraped = dict(_scraped(cluster))
    for pod in cluster.workloads:
        if "metrics" not in pod.ports:
            continue
        service = cluster.named("Service", scraped.pop(pod.part))["spec"]
        assert selects({"matchLabels": service["selector"]}, pod.labels)
        assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
        assert [row["targetPort"] for row in service["ports"]] == ["metrics"]
        assert pod.ports["metrics"] == 9464
    assert scraped == {}


def test_figures_are_kept_for_as_long_as_rules_look_back_and_on_the_disk(cluster: Cluster) -> None:
    prometheus = _workload(cluster, "prometheus")
    told = dict(argument.split("=", 1) for argument in prometheus.container["args"])
    (disk,) = prometheus.object["spec"]["volumeClaimTemplates"]
    size = disk["spec"]["resources"]["requests"]["storage"]
    assert told["--storage.tsdb.retention.time"] == "30d"
    assert int(told["--storage.tsdb.retention.size"].removesuffix("GB")) < int(
        size.removesuffix("Gi")
    )
    mounts = {row["name"]: row["mountPath"] for row in prometheus.container["volumeMounts"]}
    assert told["--storage.tsdb.path"] == mounts[disk["metadata"]["name"]]


def test_grafana_has_every_dashboard_and_a_source_that_is_there(cluster: Cluster) -> None:
    mounted = _mounted(cluster, _workload(cluster, "grafana"))
    provisioning = mounted[Path("/etc/grafana/provisioning")]
    (provider,) = yaml.safe_load(provisioning["dashboards/dashboards.yaml"])["providers"]
    shown = mounted[Path(provider["options"]["path"])]
    assert shown == {file.name: file.read_text() for file in MONITORING.glob("dashboards/*.json")}
    (source,) = yaml.safe_load(provisioning["datasources/datasources.yaml"])["datasources"]
    _, name, port = re.split("://|:", source["url"])
    (row,) = cluster.named("Service", name)["spec"]["ports"]
    assert (row["port"], source["type"], source["isDefault"]) == (int(port), "prometheus", True)


def _workload(cluster: Cluster, name: str) -> Workload:
    (found,) = (each for each in cluster.workloads if each.name == name)
    return found


def _scraped(cluster: Cluster) -> list[tuple[str, str]]:
    """Job and name of each service of the configuration, as its relabelling has it."""
    files = _mounted(cluster, _workload(cluster, "prometheus"))
    told = yaml.safe_load(files[Path("/etc/prometheus/config")]["prometheus.yaml"])
    found = []
    for job in told["scrape_configs"]:
        for name in (each for row in job.get("dns_sd_configs", ()) for each in row["names"]):
            (rule,) = job["relabel_configs"]
            match = re.fullmatch(rule["regex"], name)
            assert match, name
            found.append((match[1], name))
    return found


def _mounted(cluster: Cluster, pod: Workload) -> dict[Path, dict[str, str]]:
    """Mount path → files of the ConfigMap there."""
    volumes = {each["name"]: each.get("configMap") for each in pod.pod["volumes"]}
    found: dict[Path, Any] = {}
    for mount in pod.container["volumeMounts"]:
        if (volume := volumes.get(mount["name"])) is None:
            continue
        data = cluster.named("ConfigMap", volume["name"])["data"]
        paths = {item["key"]: item["path"] for item in volume.get("items", ())}
        found[Path(mount["mountPath"])] = {paths.get(key, key): data[key] for key in data}
    return found
