"""`python -m vlinders_embedded up`, `… down`, `… backup FOLDER`: what `make` runs."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vlinders_embedded import folder
from vlinders_embedded.backup import back_up
from vlinders_embedded.options import BadOption, Options
from vlinders_kit.embedded.programs import NotServing

_READY_FD = "VLINDERS_READY_FD"
"""Names the descriptor on which a detached supervisor says that it is ready."""
_DOWN_SECONDS = 150.0
"""Longest time that ending in order takes: each tier has its own."""


def main(arguments: Sequence[str]) -> int:
    try:
        options = Options.read()
        match arguments:
            case ["up"] if os.environ.get("DETACH", "0") not in ("", "0"):
                return _detached()
            case ["up"]:
                return _up(options)
            case ["down"]:
                return _down(options.var)
            case ["backup", to]:
                back_up(options.var, Path(to).resolve())
                _report(f"{to} is a backup: `make up VAR={to}` starts from it")
                return 0
    except NotServing as error:
        sys.stderr.write(f"\n{error}\n\nNothing runs any more. Mend this and start again.\n")
        return 1
    except (BadOption, OSError, RuntimeError) as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    sys.stderr.write(
        "python -m vlinders_embedded up|down|backup FOLDER; the variables are in README.md\n"
    )
    return 2


def _up(options: Options) -> int:
    from vlinders_embedded.up import run

    with folder.held(options.var):
        asyncio.run(run(options, report=_report, ready=lambda: _detach(options.var)))
    return 0


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _detached() -> int:
    """Runs `up` in a session of its own; returns when it is ready, or with its failure."""
    reading, writing = os.pipe()
    environment = {**os.environ, "DETACH": "", _READY_FD: str(writing)}
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "vlinders_embedded", "up"],
        env=environment,
        pass_fds=[writing],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(writing)
    try:
        said = os.read(reading, 1)
    except KeyboardInterrupt:
        supervisor.send_signal(signal.SIGTERM)
        return supervisor.wait()
    return 0 if said else supervisor.wait()


def _detach(var: Path) -> None:
    """Lets go of the terminal and says so to whoever waits; does nothing where nobody does."""
    if (descriptor := os.environ.pop(_READY_FD, None)) is None:
        return
    with (var / "logs" / "supervisor.log").open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    os.write(int(descriptor), b"\n")
    os.close(int(descriptor))


def _down(var: Path) -> int:
    pid = folder.holder(var)
    if pid is None:
        left = folder.end_left_over(var)
        _report(f"ended {left} processes that were left over" if left else f"nothing runs in {var}")
        return 0
    _report(f"ending the stack in {var}")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_SECONDS
    while folder.holder(var) == pid:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    _report("ended")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
