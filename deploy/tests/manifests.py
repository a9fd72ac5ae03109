"""The manifests as tests see them: rendered by kustomize, with the few views that rules ask for."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from vlinders_kit.settings import Settings

K8S = Path(__file__).parents[1] / "k8s"
OVERLAYS = ("dev", "prod")
RENDERS = shutil.which("kubectl") is not None

Object = Mapping[str, Any]
"""A Kubernetes object, as its manifest says."""

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")


@dataclass(frozen=True)
class Workload:
    """What runs pods, and the one container of each."""

    object: Object

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    @property
    def kind(self) -> str:
        return str(self.object["kind"])

    @property
    def pod(self) -> Any:
        return self.object["spec"]["template"]["spec"]

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.object["spec"]["template"]["metadata"]["labels"]
        return labels

    @property
    def container(self) -> Any:
        (container,) = self.pod["containers"]
        return container

    @property
    def is_ours(self) -> bool:
        return "vlinders/" in self.container["image"]

    @property
    def part(self) -> str:
        """Which part of ours it runs."""
        return {"gpu-worker": "worker"}.get(self.name, self.name)

    @property
    def ports(self) -> Mapping[str, int]:
        return {row["name"]: row["containerPort"] for row in self.container.get("ports", ())}

    @property
    def variables(self) -> Mapping[str, Object]:
        """Variable → how its value is said."""
        rows = self.container.get("env", ())
        assert len({row["name"] for row in rows}) == len(rows), f"{self.name} sets one twice"
        return {row["name"]: row for row in rows}


@dataclass(frozen=True)
class Cluster:
    """All objects of an overlay."""

    objects: Sequence[Object]

    def of(self, *kinds: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] in kinds]

    def named(self, kind: str, name: str) -> Object:
        (found,) = (each for each in self.of(kind) if each["metadata"]["name"] == name)
        return found

    @property
    def workloads(self) -> list[Workload]:
        return [Workload(each) for each in self.of(*WORKLOADS)]

    @property
    def ours(self) -> list[Workload]:
        return [each for each in self.workloads if each.is_ours]

    @property
    def jobs(self) -> list[Workload]:
        return [Workload(each) for each in self.of("Job")]


@cache
def rendered(overlay: str) -> Cluster:
    """What `kubectl apply -k` of the overlay would send."""
    done = subprocess.run(
        ["kubectl", "kustomize", K8S / "overlays" / overlay],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return Cluster(list(yaml.safe_load_all(done.stdout)))


def written() -> Iterator[tuple[Path, Object]]:
    """Each object that a file holds whole, before kustomize touches it."""
    for file in sorted(K8S.rglob("*.yaml")):
        for each in yaml.safe_load_all(file.read_text()):
            if "kind" in each and "kustomize" not in each["apiVersion"]:
                yield file.relative_to(K8S), each


def settings_of(part: str) -> type[Settings]:
    """What the part reads its variables with."""
    module = import_module(f"vlinders_{part.replace('-', '_')}.settings")
    (kind,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type) and "prefix" in vars(each) and each.__module__ == module.__name__
    )
    assert issubclass(kind, Settings)
    return kind


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector of Kubernetes chooses what has these labels."""
    wanted = selector.get("matchLabels", {})
    if any(labels.get(name) != value for name, value in wanted.items()):
        return False
    for row in selector.get("matchExpressions", ()):
        assert row["operator"] == "In", row
        if labels.get(row["key"]) not in row["values"]:
            return False
    return True
