"""The load generator and the provider behind everything: C programs, compiled where they run."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlinders_kit.embedded.programs import leashed

_SOURCES = Path(__file__).parent / "native"


class NoCompiler(RuntimeError):
    """There is no `cc` here."""


@dataclass(frozen=True)
class Programs:
    load: Path
    upstream: Path


@dataclass(frozen=True)
class Provider:
    """upstream.c, running."""

    port: int
    pid: int


@dataclass(frozen=True)
class Answered:
    """What the load generator has counted within its window."""

    seconds: float
    sent: int
    whole: int
    """Answers that came complete, as load.c says."""
    events: int
    """Events of streams, of complete ones or not."""
    left: int
    """Requests that the client left, of the whole run."""
    latency_us: dict[str, float]
    first_byte_us: dict[str, float]
    """Both by p50, p90, p99 and max."""
    errors: dict[str, int]
    """Of the whole run: unconnected, status, broken, error_events."""
    first_error: str

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


@dataclass(frozen=True)
class Door:
    """Where a target takes chat completions, and how it wants to be asked."""

    port: int
    path: str = "/v1/chat/completions"
    headers: Sequence[str] = ()
    """As `Name: value`."""
    model_prefix: str = ""
    """What it calls models begins with this."""


def compiled(folder: Path) -> Programs:
    """Compiles what has changed. Raises NoCompiler."""
    cc = shutil.which("cc")
    if cc is None:
        raise NoCompiler("there is no `cc`: install gcc or clang")
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for name in ("load", "upstream"):
        source, program = _SOURCES / f"{name}.c", folder / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run([cc, "-O2", "-Wall", "-Werror", "-o", program, source], check=True)
        made[name] = program
    return Programs(**made)


@contextmanager
def provider(programs: Programs) -> Iterator[Provider]:
    """The provider, on a free port."""
    command = leashed([str(programs.upstream)])
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield Provider(int(process.stdout.readline()), process.pid)
        finally:
            process.kill()


def load(
    programs: Programs,
    door: Door,
    body: dict[str, Any],
    *options: str,
    at_ends: Callable[[int], None] = lambda pid: None,
) -> Answered:
    """Runs the load generator to its end; `options` are its own.

    `at_ends` is called with its pid when the window opens and when it closes.
    """
    told = {**body, "model": f"{door.model_prefix}{body['model']}"}
    command = [str(programs.load), str(door.port), "-P", door.path, *options]
    command += ["-b", json.dumps(told), *(word for line in door.headers for word in ("-H", line))]
    with subprocess.Popen(leashed(command), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for word in ("opened", "closed"):
            if process.stdout.readline().strip() != word:
                raise RuntimeError(f"the load generator ended before its window had {word}")
            at_ends(process.pid)
        figures = json.loads(process.stdout.read())
    return Answered(**{name: figures[name] for name in Answered.__annotations__})
