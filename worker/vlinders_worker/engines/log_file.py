"""What an engine writes: kept in a file, with the one before it, within a bound."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 4 * 1024 * 1024
TAIL = 4_096


class LogFile:
    """The engine writes the file itself, so that nothing is lost or blocked by the agent."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor for the engine's output; what it writes is added at the end."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        descriptor = os.open(self._path, flags, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def bound(self) -> None:
        """Moves what is there aside once it is long. The engine goes on in the same, empty file."""
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size > LONGEST:
                self._path.with_suffix(".log.1").write_bytes(self._path.read_bytes()[-LONGEST:])
                os.truncate(self._path, 0)

    def last_line(self) -> str:
        """The last words of the engine, which mostly say why it ended."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, self._path.stat().st_size - TAIL))
                lines = file.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
