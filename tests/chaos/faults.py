"""Faults: what is done to processes here, and (from the kit) to the lines between them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Literal

import psutil

from vlinders_kit.testing.lines import Line, line

__all__ = ["HOW", "How", "Line", "away", "down", "frozen", "kill", "line"]

How = Literal["frozen", "down"]
HOW: Sequence[How] = ("frozen", "down")
"""Ways of a server to be away: its kernel answers for it, or refuses for it."""


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


@asynccontextmanager
async def down(pids: Callable[[], Sequence[int]]) -> AsyncIterator[None]:
    """For the block, the one process that `pids` tells of is gone: it is killed, and what its
    supervisor starts in its place is frozen before it listens."""
    (killed,) = pids()
    kill(killed)
    with ExitStack() as thawing:
        async with asyncio.timeout(20):
            while not (born := set(pids()) - {killed}):
                await asyncio.sleep(0.005)
        _freeze(born.pop(), thawing)
        yield


@asynccontextmanager
async def away(pids: Callable[[], Sequence[int]], how: How) -> AsyncIterator[None]:
    """For the block, the one process that `pids` tells of does not serve."""
    if how == "down":
        async with down(pids):
            yield
    else:
        with frozen(*pids(), children=True):
            yield


def _freeze(pid: int, thawing: ExitStack) -> None:
    thawing.callback(_tell, pid, signal.SIGCONT)
    _tell(pid, signal.SIGSTOP)


def _tell(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
