"""Who this worker is: a name that lasts in its state directory, and one for each start."""

import fcntl
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from vlinders_kit import ids


@dataclass(frozen=True)
class WorkerIdentity:
    worker_id: str
    boot_id: str
    lock: int
    """A descriptor that holds the state directory for this process for as long as it lives."""


def claim(state_dir: Path) -> WorkerIdentity:
    """Takes `state_dir` for this process; exits if it cannot be had, or another agent has it."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        sys.exit(f"{state_dir}: cannot be used as the state directory: {error.strerror}")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"{state_dir}: another worker agent runs with this state directory")
    kept = state_dir / "worker_id"
    if not kept.exists():
        draft = state_dir / "worker_id.part"
        draft.write_text(ids.new_id("worker"))
        draft.replace(kept)
    return WorkerIdentity(kept.read_text().strip(), ids.new_id("boot"), lock)
