"""One more process of a part beside those of the stack, told something else: lines of its own."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.chaos.stack import Chaos
from vlinders_kit.embedded.programs import leashed, stop


@contextmanager
def one_more(chaos: Chaos, part: str, label: str, **told: object) -> Iterator[int]:
    """The process of another `part`, until the block ends; `told` are settings of its own.

    Everything else it is told as the first of the part is. What it writes is with the stack's logs.
    It is not waited for.
    """
    settings = f"VLINDERS_{part.replace('-', '_').upper()}_"
    own = {f"{settings}{name.upper()}": str(value) for name, value in told.items()}
    like = psutil.Process(chaos.pids(part)[0])
    with (chaos.stack.var / "logs" / f"{label}.log").open("ab") as out:
        process = subprocess.Popen(
            leashed(like.cmdline()),
            env=like.environ() | own,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
        )
    try:
        yield process.pid
    finally:
        stop(process, signal.SIGTERM, seconds=40)


def logged(chaos: Chaos, label: str, event: str) -> Iterator[str]:
    """The lines that the process `label` has written of an event."""
    file: Path = chaos.stack.var / "logs" / f"{label}.log"
    with contextlib.suppress(FileNotFoundError):
        for line in file.read_text(errors="replace").splitlines():
            if f'"event": "{event}"' in line:
                yield line
