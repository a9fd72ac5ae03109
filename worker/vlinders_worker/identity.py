"""Who this worker is: a name that lasts in its state directory, and one for each start."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vlinders_kit import ids


@dataclass(frozen=True)
class WorkerIdentity:
    worker_id: str
    boot_id: str


@contextmanager
def claimed(state_dir: Path) -> Iterator[WorkerIdentity]:
    """Takes `state_dir` for this process; exits if it cannot be had, or another agent has it.

    The lock is the kernel's, so that it ends with the process, however that ends.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        sys.exit(f"{state_dir}: cannot be used as the state directory: {error.strerror}")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield WorkerIdentity(_lasting(state_dir / "worker_id"), ids.new_id("boot"))
    except BlockingIOError:
        sys.exit(f"{state_dir}: another worker agent runs with this state directory")
    finally:
        os.close(lock)


def _lasting(kept: Path) -> str:
    if not kept.exists():
        draft = kept.with_suffix(".part")
        draft.write_text(ids.new_id("worker"))
        draft.replace(kept)
    return kept.read_text().strip()
