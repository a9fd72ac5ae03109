"""The manifests: valid to the letter, told what the parts want to know, and by the rules."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
from kubernetes_validate import utils as schemas

from .manifests import K8S as _K8S
from .manifests import OVERLAYS, RENDERS, WORKLOADS, Cluster, Workload, rendered, selects, written
from .manifests import settings_of as settings

KUBERNETES = "1.37.0"
"""The version whose schemas hold."""

BESIDES = {"POD_IP", "HOME", "HF_HUB_OFFLINE", "NVIDIA_DRIVER_CAPABILITIES"}
"""Variables of pods of ours that are no settings."""

DRAINS = 30
"""Seconds that each part lets what runs go on, once it was told to end."""

renders = pytest.mark.skipif(
    not RENDERS, reason="MANIFESTS ARE NOT RENDERED: that needs kubectl, for its kustomize"
)


@pytest.fixture(scope="module", autouse=True)
def _schemas_are_read_once() -> Iterator[None]:
    """They are megabytes, which the validator would read for each object anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schemas, "schema_contents", cache(schemas.schema_contents))
        yield


def test_every_manifest_is_valid_to_the_letter() -> None:
    wrong = [f"{file}: {error}" for file, each in written() for error in _problems(each)]
    assert wrong == []


@pytest.fixture(params=OVERLAYS)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return rendered(request.param)


@renders
class TestACluster:
    def test_is_valid_to_the_letter(self, cluster: Cluster) -> None:
        assert [error for each in cluster.objects for error in _problems(each)] == []

    def test_has_every_part(self, cluster: Cluster) -> None:
        parts = {each.part for each in cluster.ours}
        assert parts == {"gateway", "auth", "billing", "inference", "gpu-scheduler", "worker"}

    def test_sets_what_parts_know_and_all_that_they_require(self, cluster: Cluster) -> None:
        for each in cluster.ours:
            kind, told = settings(each.part), set(each.variables)
            required = {
                f"{kind.prefix}_{name}".upper()
                for name, field in kind.model_fields.items()
                if field.is_required()
            }
            assert told - BESIDES <= kind.variables().keys(), each.name
            assert required <= told, each.name

    def test_asks_the_health_of_every_container(self, cluster: Cluster) -> None:
        for each in cluster.workloads:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                asked = each.container[probe]
                if each.is_ours:  # a port that asks for no certificate, which probes have none of
                    path = "/readyz" if probe == "readinessProbe" else "/healthz"
                    assert asked["httpGet"] == {"path": path, "port": "metrics"}
                elif "httpGet" in asked:
                    assert asked["httpGet"]["port"] in each.ports

    def test_says_what_every_container_takes(self, cluster: Cluster) -> None:
        for each in [*cluster.workloads, *cluster.jobs]:
            resources = each.container["resources"]
            assert resources["requests"].keys() >= {"cpu", "memory"}, each.name
            assert "memory" in resources["limits"], each.name
            assert "cpu" not in resources["limits"], f"{each.name} would be throttled"

    def test_gives_no_process_more_than_it_needs(self, cluster: Cluster) -> None:
        for each in [*cluster.workloads, *cluster.jobs]:
            pod, own = each.pod["securityContext"], each.container["securityContext"]
            assert pod["runAsNonRoot"], each.name
            assert pod["runAsUser"] > 0, each.name
            assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
            assert own["readOnlyRootFilesystem"], each.name
            assert own["allowPrivilegeEscalation"] is False, each.name
            assert own["capabilities"] == {"drop": ["ALL"]}, each.name
            assert each.pod["automountServiceAccountToken"] is False, each.name
            assert each.pod["enableServiceLinks"] is False, each.name
            account = cluster.named("ServiceAccount", each.pod["serviceAccountName"])
            assert account["automountServiceAccountToken"] is False, each.name
        (namespace,) = cluster.of("Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"

    def test_lets_what_runs_end(self, cluster: Cluster) -> None:
        for each in cluster.ours:
            found_still = each.container["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert each.pod["terminationGracePeriodSeconds"] > found_still + DRAINS, each.name

    def test_spreads_replicas_and_keeps_enough_of_them(self, cluster: Cluster) -> None:
        budgets = cluster.of("PodDisruptionBudget")
        for each in cluster.workloads:
            if each.kind == "DaemonSet":
                continue
            (budget,) = (b for b in budgets if selects(b["spec"]["selector"], each.labels))
            assert budget["spec"]["maxUnavailable"] == 1
            spread = each.pod["topologySpreadConstraints"]
            over = {row["topologyKey"] for row in spread}
            assert over == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
            assert all(selects(row["labelSelector"], each.labels) for row in spread)

    def test_scales_what_has_no_number_of_its_own(self, cluster: Cluster) -> None:
        scaled = {each["spec"]["scaleTargetRef"]["name"] for each in _scalers(cluster)}
        assert scaled >= {"gateway", "inference"}
        for name in scaled:
            assert "replicas" not in cluster.named("Deployment", name)["spec"]

    def test_selects_the_pods_that_it_means(self, cluster: Cluster) -> None:
        for each in cluster.workloads:
            selector = each.object["spec"]["selector"]
            taken = [other.name for other in cluster.workloads if selects(selector, other.labels)]
            assert taken == [each.name]

    def test_has_services_that_lead_somewhere(self, cluster: Cluster) -> None:
        for service in cluster.of("Service"):
            selector = {"matchLabels": service["spec"]["selector"]}
            behind = [each for each in cluster.workloads if selects(selector, each.labels)]
            assert behind, service["metadata"]["name"]
            for row in service["spec"]["ports"]:
                assert all(row["targetPort"] in each.ports for each in behind)
        for each in cluster.of("StatefulSet"):
            assert cluster.named("Service", each["spec"]["serviceName"])

    def test_sends_parts_to_services_that_are_there(self, cluster: Cluster) -> None:
        """Every `name:port` of a variable; replicas find each other, so the names are headless."""
        ports = {
            (service["metadata"]["name"], row["port"]): service["spec"].get("clusterIP")
            for service in cluster.of("Service")
            for row in service["spec"]["ports"]
        }
        seen = set()
        for each in cluster.ours:
            for name, row in each.variables.items():
                for host, port in re.findall(r"([a-z][\w.-]*):(\d+)", row.get("value", "")):
                    service = host.partition(".")[2] or host
                    assert ports.get((service, int(port))) == "None", (each.name, name)
                    seen.add((each.part, service))
        assert len(seen) == 7, "4 of the gateway, 2 of inference, 1 of workers"

    def test_runs_images_of_one_version(self, cluster: Cluster) -> None:
        for each in [*cluster.workloads, *cluster.jobs]:
            tag = each.container["image"].rpartition("/")[2].partition(":")[2]
            assert tag not in ("", "latest"), each.container["image"]

    def test_refers_to_configuration_that_is_there(self, cluster: Cluster) -> None:
        maps = {each["metadata"]["name"] for each in cluster.of("ConfigMap")}
        assert _mounted(cluster, "configMap", "name") == maps

    def test_keeps_secrets_out_of_configuration(self, cluster: Cluster) -> None:
        secret = re.compile(r"://[^/\s:]*:[^@\s]+@|PRIVATE KEY|^\s*(api_key|password|token):", re.M)
        for each in cluster.of("ConfigMap"):
            for name, text in each["data"].items():
                assert secret.search(text) is None, f"{each['metadata']['name']}: {name}"
        for workload in [*cluster.workloads, *cluster.jobs]:
            for row in workload.variables.values():
                assert secret.search(row.get("value", "")) is None, row["name"]
                assert not re.search(
                    r"((?<!TLS_)KEY|TOKEN|PASSWORD|(?<!PUBLIC)_URL|BUS|REDIS)$", row["name"]
                ) or ("secretKeyRef" in row.get("valueFrom", {})), row["name"]

    def test_says_of_every_object_when_it_is_applied(self, cluster: Cluster) -> None:
        steps = {"ground": set[str](), "migrate": set[str](), "run": set[str]()}
        for each in cluster.objects:
            steps[each["metadata"]["labels"]["vlinders.io/step"]].add(each["kind"])
        assert steps["migrate"] == {"Job"}
        assert steps["run"] <= {*WORKLOADS, "PodDisruptionBudget", "HorizontalPodAutoscaler"}


@renders
class TestMigrations:
    def test_bring_every_database_to_its_last_revision(self, cluster: Cluster) -> None:
        packages = {job.container["command"][-1] for job in cluster.jobs}
        services = {"vlinders_auth", "vlinders_billing", "vlinders_inference"}
        wanted = {*services, "vlinders_gpu_scheduler"}
        assert packages - {"vlinders_kit.bus"} == wanted
        assert ("vlinders_kit.bus" in packages) == (cluster is rendered("dev"))

    def test_are_done_once_by_the_image_that_has_them(self, cluster: Cluster) -> None:
        python = ["/opt/vlinders/bin/python", "-m", "vlinders_kit.migrations"]
        for job in cluster.jobs:
            *command, package = job.container["command"]
            assert command == python
            variable = f"{package.upper().replace('.', '_')}_DATABASE_URL"
            assert job.variables.keys() == {variable}
            assert job.pod["restartPolicy"] == "Never"
            if package != "vlinders_kit.bus":
                part = package.removeprefix("vlinders_").replace("_", "-")
                assert f"vlinders/{part}:" in job.container["image"]


@renders
class TestSecrets:
    def test_are_in_no_manifest_of_production(self) -> None:
        assert rendered("prod").of("Secret") == []

    def test_of_development_are_those_that_are_referred_to(self) -> None:
        cluster = rendered("dev")
        there = {
            (re.sub(r"-[a-z0-9]{10}$", "", secret["metadata"]["name"]), key)
            for secret in cluster.of("Secret")
            for key in secret["data"]
        }
        assert {name for name in _secrets(cluster) if name[1] != "operator-api-key"} == there

    def test_of_production_are_those_that_the_page_lists(self) -> None:
        page = (_K8S / "README.md").read_text()
        listed = {
            (name, key)
            for name, keys in re.findall(r"^\| `([a-z-]+)` \| (`.+?`) \|", page, re.M)
            for key in re.findall(r"`([^`]+)`", keys)
        }
        assert listed == _secrets(rendered("prod"))


@renders
def test_every_part_of_production_shows_a_certificate_of_its_own() -> None:
    for each in rendered("prod").ours:
        prefix = settings(each.part).prefix
        names = (f"{prefix}_TLS_{name}" for name in ("CERTIFICATE", "KEY", "AUTHORITY"))
        told = {each.variables[name]["value"] for name in names}
        (volume,) = (row["secret"] for row in each.pod["volumes"] if row["name"] == "tls")
        (mount,) = (row for row in each.container["volumeMounts"] if row["name"] == "tls")
        assert volume["secretName"] == f"{each.part}-tls"
        assert told == {f"{mount['mountPath']}/{item['path']}" for item in volume["items"]}


def _problems(each: Any) -> Iterator[str]:
    try:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{each['kind']}/{each['metadata']['name']}: {error.message}"


def _scalers(cluster: Cluster) -> list[Any]:
    return list(cluster.of("HorizontalPodAutoscaler"))


def _mounted(cluster: Cluster, kind: str, key: str) -> set[str]:
    return {
        volume[kind][key]
        for each in [*cluster.workloads, *cluster.jobs]
        for volume in each.pod.get("volumes", ())
        if kind in volume
    }


def _secrets(cluster: Cluster) -> set[tuple[str, str]]:
    """Secret and key of all that is referred to, without the hash that kustomize adds."""
    found = set()
    for each in [*cluster.workloads, *cluster.jobs]:
        found |= set(_secrets_of(each))
    return {(re.sub(r"-[a-z0-9]{10}$", "", name), key) for name, key in found}


def _secrets_of(each: Workload) -> Iterator[tuple[str, str]]:
    for row in each.variables.values():
        if (one := row.get("valueFrom", {}).get("secretKeyRef")) is not None:
            yield one["name"], one["key"]
    for volume in each.pod.get("volumes", ()):
        if "secret" in volume:
            assert "items" in volume["secret"] or volume["secret"]["optional"]
            for item in volume["secret"].get("items", ()):
                yield volume["secret"]["secretName"], item["key"]
