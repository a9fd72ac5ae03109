"""Backups: a folder that a stack starts from as from its own, with all as it was at one moment.

All databases are on one server, so one base backup has all of them at the same moment: what
inference had recorded and billing had not charged yet is charged after the restore, once.
"""

import json
import shutil
from pathlib import Path

from vlinders_embedded.files import write_private
from vlinders_embedded.minted import secrets_of
from vlinders_kit.embedded.postgres import Postgres

KEPT = ("secrets.json", "sealing-*.json")
"""What of a stack's folder belongs to the data: without the sealing keys it cannot be read."""


def back_up(var: Path, to: Path) -> None:
    """Copies the running stack of `var` into the new folder `to`, whole and checked, or not at all.

    Requests go on meanwhile. Raises RuntimeError.
    """
    if to.exists():
        raise RuntimeError(f"{to} exists: a backup is made in a folder of its own")
    ports = var / "ports.json"
    if not ports.exists():
        raise RuntimeError(f"there is no stack in {var}")
    port = int(json.loads(ports.read_text())["postgres"])
    unfinished = to.with_name(f"{to.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700, parents=True)
    for pattern in KEPT:
        for file in var.glob(pattern):
            write_private(unfinished / file.name, file.read_text())
    Postgres(var / "postgres", port, secrets_of(var).postgres).back_up(unfinished / "postgres")
    unfinished.rename(to)
