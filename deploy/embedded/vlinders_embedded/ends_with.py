"""A stack that ends with another process: for tests, which may be killed without a last word."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDS_WITH = "VLINDERS_ENDS_WITH"
"""Variable that holds the pid of that process."""


@contextmanager
def ending_with(pid: str | None, end: Callable[[], None]) -> Iterator[None]:
    """Calls `end` when the process `pid` has ended; never without one."""
    if not pid:
        yield
        return
    try:
        process = os.pidfd_open(int(pid))
    except ProcessLookupError:
        end()
        yield
        return
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(process)
        end()

    loop.add_reader(process, ended)
    try:
        yield
    finally:
        loop.remove_reader(process)
        os.close(process)
