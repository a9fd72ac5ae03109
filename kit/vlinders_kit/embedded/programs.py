"""Servers as child processes: started, known to serve by their own protocol, ended in order."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_POLL_SECONDS = 0.01
_TAIL_LINES = 20


class NotServing(RuntimeError):
    """A server did not come up; the text says which, and ends with the last lines it wrote."""


@dataclass(frozen=True)
class Program:
    """A server: how it is started, how one knows that it serves, how it is told to end."""

    name: str
    command: Sequence[str]
    serves: Callable[[], bool]
    """Asks the server by its own protocol. Quick, and False where nothing answers."""
    ends_by: signal.Signals = signal.SIGTERM
    """The signal on which it ends in order."""
    lives: Callable[[], bool] | None = None
    """Asks whether it answers at all, where it may do that and not serve for long."""


@contextmanager
def running(
    program: Program, *, log: Path, seconds: float = 30
) -> Iterator[subprocess.Popen[bytes]]:
    """The program, serving inside the block and gone after it. Raises NotServing."""
    process = start(program, log)
    try:
        await_serving(program, process, log=log, seconds=seconds)
        yield process
    finally:
        stop(process, program.ends_by)


def start(program: Program, log: Path) -> subprocess.Popen[bytes]:
    """Starts it in a session of its own, so that a terminal's Ctrl-C does not reach it; what it
    writes is added to `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            start_new_session=True,
        )


def await_serving(
    program: Program, process: subprocess.Popen[bytes], *, log: Path, seconds: float = 30
) -> None:
    """Returns when the program serves; raises NotServing when it ends or `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while not program.serves():
        if process.poll() is not None:
            raise NotServing(f"{program.name} ended ({process.returncode}).\n{tail(log)}")
        if time.monotonic() > deadline:
            raise NotServing(f"{program.name} does not serve after {seconds:g} s.\n{tail(log)}")
        time.sleep(_POLL_SECONDS)


def stop(process: subprocess.Popen[bytes], number: signal.Signals, *, seconds: float = 10) -> None:
    """Ends it by the signal `number`, and after `seconds` by force."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log, for whoever has to find out."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def leashed(
    command: Sequence[str], number: signal.Signals = signal.SIGKILL, *privileges: str
) -> list[str]:
    """`command`, so that it gets the signal `number` when the thread that starts it ends.

    By util-linux's setpriv, which `privileges` are further options of: unlike code between fork and
    exec it is safe in a process with threads. Where it is not there, a killed parent leaves its
    children behind, for the next start to find.
    """
    setpriv = shutil.which("setpriv", path=os.environ.get("PATH", "") + ":/usr/bin:/bin")
    if setpriv is None:
        if privileges:
            raise RuntimeError("`setpriv` is missing: install the package util-linux")
        return list(command)
    leash = number.name.removeprefix("SIG")
    return [setpriv, "--pdeathsig", leash, *privileges, "--", *command]


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wheel(package: str) -> Path:
    """The folder of an installed package, which is not imported: some do work when they are."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"the package {package} is not installed: run `make setup`")
    return Path(spec.submodule_search_locations[0])
