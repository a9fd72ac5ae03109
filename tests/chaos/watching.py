"""What processes take while something is done to them: memory at its peak, and processor time."""

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import psutil

MEGABYTE = 1024 * 1024
_EVERY = 0.01


class Watched:
    """Watches processes for the block.

    with Watched(chaos.pids("gateway")) as watched:
        ...
    assert watched.grown <= 64 * MEGABYTE
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self.grown = 0
        """Bytes of memory that any of them had more, at the most, than when it began."""
        self.total = 0
        """And all of them together."""
        self.seconds = 0.0
        """Of processor time that they used together."""
        self.lasted = 0.0
        """Seconds of the block."""
        self._processes = [psutil.Process(pid) for pid in pids]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on)

    def __enter__(self) -> Self:
        self._before, self.seconds = self._resident(), -self._used()
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.lasted = time.monotonic() - self._began
        self._over.set()
        self._thread.join()
        self.seconds += self._used()

    def _look_on(self) -> None:
        while True:
            over = self._over.wait(_EVERY)
            grown = [*map(int.__sub__, self._resident(), self._before)]
            self.grown, self.total = max(self.grown, *grown), max(self.total, sum(grown))
            if over:
                return

    def _resident(self) -> list[int]:
        return [process.memory_info().rss for process in self._processes]

    def _used(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)
