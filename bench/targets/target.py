"""What a target is: something that takes chat completions and asks the provider behind it."""

import random
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.programs import Door, Provider
from vlinders_kit.embedded.programs import Program, leashed, running

MODELS = ("mock-16-0", "mock-32-0", "mock-32-10")
"""What targets that have to be told are told of; upstream.c says what these names mean."""


@dataclass(frozen=True)
class Running:
    door: Door
    parts: Callable[[], Mapping[str, Sequence[int]]]
    """Its processes at this moment, by what they are for; their children are counted with them."""


@dataclass(frozen=True)
class Target:
    name: str
    title: str
    """As the tables show it, with its version."""
    start: Callable[[Provider, Path], AbstractContextManager[Running]]
    """Runs it inside the block, in front of the provider, with a folder for its files.
    Raises Absent where it cannot be had."""


@contextmanager
def served(
    name: str,
    command: Sequence[str],
    door: Door,
    *,
    folder: Path,
    health: str = "/",
    variables: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """A target of one program, which serves when it answers `health` with success."""
    with_variables = ["env", *(f"{key}={value}" for key, value in (variables or {}).items())]
    program = Program(
        name,
        leashed([*with_variables, *command]),
        lambda: _answers(f"http://127.0.0.1:{door.port}{health}"),
    )
    with running(program, log=folder / f"{name}.log", seconds=120) as process:
        yield Running(door, lambda: {name: [process.pid]})


def free_port() -> int:
    """A port that nobody uses, below those that are handed out to whoever asks for any: nothing
    takes it in the many seconds that some targets need before they listen."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except OSError:  # nobody there, or not ready
        return False
    return True
