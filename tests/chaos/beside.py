"""One more process of a part beside those of the stack, told something else: lines of its own."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.chaos.stack import Chaos
from vlinders_kit.embedded.programs import Program, await_serving, leashed, stop


@contextmanager
def one_more(
    chaos: Chaos, part: str, label: str, serves: Callable[[], bool], **told: object
) -> Iterator[int]:
    """The process of another `part`, until the block ends; `told` are settings of its own.

    Everything else it is told as the first of the part is. What it writes is with the stack's logs.
    """
    settings = f"VLINDERS_{part.replace('-', '_').upper()}_"
    own = {f"{settings}{name.upper()}": str(value) for name, value in told.items()}
    environment = psutil.Process(chaos.pids(part)[0]).environ() | own
    command = leashed(psutil.Process(chaos.pids(part)[0]).cmdline())
    log = chaos.stack.var / "logs" / f"{label}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/"
        )
    program = Program(label, command, serves)
    try:
        await_serving(program, process, log=log, seconds=60)
        yield process.pid
    finally:
        stop(process, program.ends_by, seconds=40)


def logged(chaos: Chaos, label: str, event: str) -> Iterator[str]:
    """The lines that the process `label` has written of an event."""
    file: Path = chaos.stack.var / "logs" / f"{label}.log"
    with contextlib.suppress(FileNotFoundError):
        for line in file.read_text(errors="replace").splitlines():
            if f'"event": "{event}"' in line:
                yield line
