"""Files that only their owner may read, and that are whole at every moment."""

import os
from pathlib import Path


def write_private(file: Path, text: str) -> None:
    """Puts `text` in place of what the file held, mode 0600; readers see the one or the other."""
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
