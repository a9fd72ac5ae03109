"""The folder of a stack, `VAR`: whose it is, and what a killed supervisor left running in it."""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OF_STACK = "VLINDERS_STACK"
"""Variable in the environment of every process of a stack: its folder. So they can be found."""
_PATIENCE = 5.0


class InUse(RuntimeError):
    """Another supervisor runs in the folder."""


@contextmanager
def held(var: Path) -> Iterator[None]:
    """Has the folder for this process alone, for the block. Raises InUse."""
    for folder in (var, var / "logs"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _pid_file(var).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(f"a stack runs in {var} (pid {holder(var)}): `make down` ends it") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def holder(var: Path) -> int | None:
    """The pid of the supervisor that has the folder; None where nobody has it."""
    try:
        with _pid_file(var).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
    except FileNotFoundError:
        pass
    return None


def end_left_over(var: Path) -> int:
    """Ends the processes of the stack whose supervisor is gone; how many there were."""
    found = _processes(var)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _processes(var):
            _send(pid, number)
        deadline = time.monotonic() + _PATIENCE
        while _processes(var) and time.monotonic() < deadline:
            time.sleep(0.05)
    return len(found)


def _pid_file(var: Path) -> Path:
    return var / "supervisor.pid"


def _processes(var: Path) -> list[int]:
    mark = f"{OF_STACK}={var}".encode()
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and int(entry.name) != os.getpid() and mark in _environment(entry)
    ]


def _environment(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:  # gone, or somebody else's
        return []


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
