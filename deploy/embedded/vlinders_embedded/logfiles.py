"""Logs of the parts, held to a size: what is over goes to one file `….log.old` and then away."""

import asyncio
import contextlib
import shutil
from pathlib import Path

LARGEST = 10 * 1024 * 1024
"""Bytes of a log file, give or take what is written in `_PERIOD` seconds."""
_PERIOD = 10.0


async def hold_to_size(folder: Path) -> None:
    """Watches the logs of `folder` until it is cancelled."""
    while True:
        with contextlib.suppress(OSError):  # a full disk is no reason to end what runs
            await asyncio.to_thread(turn_over, folder)
        await asyncio.sleep(_PERIOD)


def turn_over(folder: Path, *, largest: int = LARGEST) -> None:
    """Puts away what is in the logs that have grown over `largest` bytes.

    They are copied and emptied, not renamed: processes have them open, and write at their ends.
    """
    for log in folder.glob("*.log"):
        if log.stat().st_size > largest:
            shutil.copyfile(log, log.with_name(f"{log.name}.old"))
            with log.open("r+b") as file:
                file.truncate(0)
