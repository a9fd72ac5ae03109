"""How to measure: for how long, how often, alone or not, and whether the page is to be written."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

ROOT = Path(__file__).parents[1]


T = TypeVar("T")
_TRIES = 5


class Disturbed(Exception):
    """What was to be measured alone was not, to its end: its figures are worth nothing."""


@dataclass(frozen=True)
class Plan:
    """What `make bench` is told by its variables."""

    only: frozenset[str]
    """Names of what is to be done: benches, targets, cases. Empty: everything."""
    quick: bool
    """A short look during development; its figures are shown, and not written into the page."""
    alone_by: tuple[str, ...]
    """A command that runs what it is given while nobody else may: `flock FILE`, for example."""
    folder: Path
    """Where what is built and logged is kept; git does not see it."""

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Self:
        return cls(
            only=frozenset(environment.get("ONLY", "").replace(",", " ").split()),
            quick=environment.get("QUICK", "0") not in ("", "0"),
            alone_by=tuple(shlex.split(environment.get("BENCH_ALONE", ""))),
            folder=ROOT / ".cache" / "bench",
        )

    @property
    def rounds(self) -> int:
        """How often everything is visited; what is told are medians over the rounds."""
        return 1 if self.quick else 3

    @property
    def seconds(self) -> float:
        """Length of a window. In shorter ones what is unfinished at the end weighs too much."""
        return 2.0 if self.quick else 8.0

    @property
    def warm_up(self) -> float:
        return 0.5 if self.quick else 1.5

    def wants(self, name: str, among: frozenset[str]) -> bool:
        """Whether `name` is to be done; it is as long as ONLY names nothing of its kind."""
        named = self.only & among
        return not named or name in named

    def partial(self, benches: frozenset[str]) -> bool:
        """Whether what is measured is too short or too little for the page."""
        return self.quick or not self.only <= benches

    def undisturbed(self, measuring: Callable[[], T]) -> T:
        """What `measuring` has found, alone on the machine; it is done again when it was not.

        Raises Disturbed when it never was.
        """
        for _ in range(_TRIES):
            try:
                with self.alone():
                    return measuring()
            except Disturbed as why:
                say(f"once more: {why}")
        raise Disturbed(f"{_TRIES} times")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Measures inside the block, alone on the machine where BENCH_ALONE says how.

        Raises Disturbed when the command gave up before the block was over.
        """
        if not self.alone_by:
            yield
            return
        waits = ["sh", "-c", "echo; read _ || true"]
        with subprocess.Popen(
            [*self.alone_by, *waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            assert holder.stdout is not None
            if not holder.stdout.readline():
                raise Disturbed(f"{shlex.join(self.alone_by)} did not let anything begin")
            yield
            if holder.poll() is not None:
                raise Disturbed(f"{shlex.join(self.alone_by)} ended too early")


def say(line: str) -> None:
    """Shows how far it is."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
