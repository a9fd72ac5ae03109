"""A child process, in a session of its own, that the event loop hears the end of."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

STOP_SECONDS = 10.0
"""For each of the ways of ending it in order."""

AT_ONCE = signal.SIGUSR1
AT_ONCE_SECONDS = 0.5
"""On this signal a leash kills what it holds without asking, and any other program ends."""


class Child:
    """Started at once; raises OSError where it cannot be.

    `subprocess` and not the loop's own way: that forks, and the handlers that gRPC has for a fork
    fall over its own threads; this one is a vfork, which runs none. And in this thread: the signal
    that a child asks for at its parent's death comes when the *thread* that started it ends.
    """

    def __init__(
        self, command: Sequence[str], *, output: int, environment: Mapping[str, str]
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._descriptor = os.pidfd_open(self.pid)
        self._loop.add_reader(self._descriptor, self._reap)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ends_within(self, seconds: float) -> int | None:
        """Its exit code, negative for a signal; None if it lives on."""
        await asyncio.wait([self._ended], timeout=seconds)
        return self._ended.result() if self._ended.done() else None

    async def end(self) -> None:
        """Ends it and its process group, and returns when it is gone."""
        await self._end_by(signal.SIGTERM, STOP_SECONDS)

    async def kill(self) -> None:
        """The same, of what does not listen any more."""
        await self._end_by(AT_ONCE, AT_ONCE_SECONDS)

    async def _end_by(self, number: signal.Signals, patience: float) -> None:
        self._signal(number)
        if await self.ends_within(patience) is None:
            self._signal(signal.SIGKILL)
            await self.ends_within(STOP_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _reap(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._ended.set_result(self._process.wait())
