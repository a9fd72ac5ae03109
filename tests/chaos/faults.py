"""Faults: what is done to processes here, and (from the kit) to the lines between them."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil

from vlinders_kit.testing.lines import Line, line

__all__ = ["Line", "frozen", "kill", "line"]


def kill(*pids: int) -> None:
    """Ends processes as a power cut does: SIGKILL, one right after the other."""
    for pid in pids:
        _tell(pid, signal.SIGKILL)


@contextmanager
def frozen(*pids: int, children: bool = False) -> Iterator[None]:
    """For the block, the processes do nothing, nor with `children` what they have started. Their
    connections stay open and even take what is sent; nobody answers."""
    with ExitStack() as thawing:
        for pid in pids:
            _freeze(pid, thawing)
            for child in psutil.Process(pid).children(recursive=True) if children else ():
                _freeze(child.pid, thawing)
        yield


def _freeze(pid: int, thawing: ExitStack) -> None:
    thawing.callback(_tell, pid, signal.SIGCONT)
    _tell(pid, signal.SIGSTOP)


def _tell(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
