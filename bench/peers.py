"""Environments of the peers: made where they are missing or old, apart from the project's own."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from bench.plan import ROOT, say

_PINS = ROOT / "bench" / "peers.toml"
_FOLDER = ROOT / "bench" / ".peers"
_SECONDS = 900


class Absent(Exception):
    """A peer cannot be measured here; the text says why."""


def version(name: str) -> str:
    """The version that is measured."""
    pins = _pins(name)
    first: str = next(iter(pins.get("python") or pins["node"].values()))
    return first.rpartition("==")[2]


def environment(name: str) -> Path:
    """The folder of the peer's environment, with what peers.toml says. Raises Absent."""
    pins, folder = _pins(name), _FOLDER / name
    wanted, stamp = json.dumps(pins, sort_keys=True), folder / "installed.json"
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    say(f"installing {name}, once")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        _python(folder, pins["python"]) if "python" in pins else _node(folder, pins)
    except (OSError, subprocess.SubprocessError) as error:
        raise Absent(f"cannot be installed: {_why(error)}") from error
    stamp.write_text(wanted)
    return folder


def _pins(name: str) -> dict[str, Any]:
    pins: dict[str, Any] = tomllib.loads(_PINS.read_text())[name]
    return pins


def _python(folder: Path, packages: list[str]) -> None:
    _run(sys.executable, "-m", "venv", str(folder))
    python = str(folder / "bin" / "python")
    uv = shutil.which("uv")
    pip = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    _run(*pip, "--quiet", *packages)


def _node(folder: Path, pins: dict[str, Any]) -> None:
    package = {"private": True, "dependencies": pins["node"], "overrides": pins["node_instead"]}
    (folder / "package.json").write_text(json.dumps(package))
    _run("npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--no-package-lock")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)


def _why(error: Exception) -> str:
    """The last line that the installer said."""
    said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    return said[-1] if said else type(error).__name__
