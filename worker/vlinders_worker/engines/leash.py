"""A leash for an engine that is not ours: when the agent dies, however it dies, so does the engine.

    python -I leash.py AGENT_PID PROGRAM [ARGUMENT …]

It stands between the agent and the program, starts it in a process group of its own, adopts what
the program's own children leave behind, and ends them all when it is told to or when the agent is
gone. It uses the standard library only, to be small.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE_SECONDS = 8.0
AT_ONCE = signal.SIGUSR1
"""What it is told with when the program does not listen any more."""
HEARD = {signal.SIGTERM, signal.SIGCHLD, AT_ONCE}


def prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Has the kernel send us `number` when `parent` ends; ends at once if that has happened."""
    prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def main(agent: int, command: list[str]) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    die_with(agent, signal.SIGTERM)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    me = os.getpid()

    def before_exec() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
        die_with(me)

    try:
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=before_exec)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return 127
    while child.poll() is None:
        told = signal.sigwait(HEARD)
        if told == signal.SIGTERM:
            _ask_to_end(child)
        if told != signal.SIGCHLD:
            break
    code = child.poll()
    end_all(me)
    return 128 + signal.SIGKILL if code is None else code if code >= 0 else 128 - code


def _ask_to_end(child: subprocess.Popen[bytes]) -> None:
    """Gives the program the chance to end by itself."""
    os.killpg(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while child.poll() is None and (left := deadline - time.monotonic()) > 0:
        signal.sigtimedwait({signal.SIGCHLD}, left)


def end_all(parent: int) -> None:
    """Kills whatever descends from `parent`; orphans come to us, so some rounds find them all."""
    for _ in range(20):
        children = _children(parent)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, 0)[0]:
                pass
        except ChildProcessError:
            if not _children(parent):
                return


def _children(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
