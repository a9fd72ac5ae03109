"""Stacks for tests: brought up and taken down by the same command that people use."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlinders_embedded.access import file_of
from vlinders_embedded.ends_with import ENDS_WITH


class DidNotComeUp(Exception):
    """The command failed; the text is all that it said."""


@dataclass(frozen=True)
class RunningStack:
    """A stack that is up, by its folder and what `up` printed."""

    var: Path
    printed: str

    @property
    def access(self) -> dict[str, Any]:
        """access.json, as it is now."""
        told: dict[str, Any] = json.loads(file_of(self.var).read_text())
        return told

    @property
    def url(self) -> str:
        return str(self.access["url"])

    @property
    def api_key(self) -> str:
        """The operator's."""
        return str(self.access["api_key"])

    def pids(self, part: str) -> list[int]:
        return [process["pid"] for process in self.access["parts"].get(part, ())]

    def log(self, label: str) -> str:
        """What the process `label`, as `billing-1`, has written."""
        return (self.var / "logs" / f"{label}.log").read_text(errors="replace")


def bring_up(
    var: Path,
    *,
    port: int,
    ends_with: int | None = None,
    variables: Mapping[str, str] | None = None,
) -> RunningStack:
    """A stack in the folder `var`, ready. Ends with the process `ends_with`, this one by default.

    `variables` are further ones of `make up`. Raises DidNotComeUp.
    """
    told = {"PORT": str(port), "DETACH": "1", ENDS_WITH: str(ends_with or os.getpid())}
    answer = _command("up", var, {**told, **(variables or {})})
    if answer.returncode:
        raise DidNotComeUp(answer.stdout)
    return RunningStack(var, answer.stdout)


def take_down(var: Path) -> str:
    """Ends the stack in order; what the command said."""
    answer = _command("down", var, {})
    answer.check_returncode()
    return answer.stdout


def _command(verb: str, var: Path, told: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vlinders_embedded", verb],
        env={**os.environ, "VAR": str(var), **told},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
