"""An engine that is a child process: started, watched, started again, and never left behind."""

import asyncio
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from vlinders.gpu_scheduler.v1.workers_pb2 import Slot
from vlinders_kit import logs
from vlinders_worker.engines.child import Child
from vlinders_worker.engines.engine import SlotState
from vlinders_worker.engines.log_file import LogFile
from vlinders_worker.engines.programs import Program
from vlinders_worker.engines.pulse import Pulse
from vlinders_worker.engines.upstream import Upstream

PROBE_SECONDS = 2.0
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=3)
PROBES = 3
AGAIN_SECONDS = 0.5
"""So many probes without an answer, the next one so soon after, and the engine hangs: it is known
within twelve seconds."""

STALL_SECONDS = 1.0
"""Having slept for so long beyond its time, an agent holds no silence against its engine."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
STEADY_SECONDS = 60.0
"""Having run for so long, an engine that ends is started as if for the first time."""

log = logs.get(__name__)


class SupervisedEngine:
    def __init__(
        self,
        program: Program,
        *,
        http: aiohttp.ClientSession,
        logs_dir: Path,
        changed: Callable[[], None],
    ) -> None:
        self.slot = SlotState(program.configuration, changed)
        self._program = program
        self._http = http
        self._log = LogFile(logs_dir / f"{self.slot.id}.log")
        kept = program.configuration
        self._pulse = Pulse(first=kept.first_seconds, next=kept.hang_seconds)
        self._port = 0
        self._wait = FIRST_WAIT

    @property
    def _root(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def upstream(self, *, silence_seconds: float) -> Upstream:
        return Upstream(
            self._http,
            slot_id=self.slot.id,
            url=self._root + self._program.base_path,
            model=self._program.configuration.served_name,
            headers={},
            silence_seconds=silence_seconds,
            pulse=self._pulse,
        )

    async def run(self) -> None:
        while True:
            began = time.monotonic()
            why = await self._live()
            if time.monotonic() - began > STEADY_SECONDS:
                self._wait = FIRST_WAIT
            self.slot.turn(Slot.STATE_FAILED, why)
            # With jitter, so that engines that fell together do not come back together.
            await asyncio.sleep(random.uniform(self._wait / 2, self._wait))
            self._wait = min(self._wait * 2, LONGEST_WAIT)
            self.slot.turn(Slot.STATE_LOADING)

    async def _live(self) -> str:
        """One life of the process, from start to end; says why it ended."""
        self._port = _free_port()
        try:
            command = await self._program.command(self._port)
            with self._log.opened() as output:
                child = Child(command, output=output, environment=self._program.environment)
        except (OSError, subprocess.SubprocessError) as error:
            return f"cannot be started: {error}"
        log.info("engine_started", slot_id=self.slot.id, pid=child.pid, port=self._port)
        try:
            return await self._watch(child)
        finally:
            await child.end()

    async def _watch(self, child: Child) -> str:
        """Waits until it is ready, then until it ends or hangs."""
        deadline = time.monotonic() + self._program.start_seconds
        pause = 0.05
        while not await self._answers():
            if (code := await child.ends_within(pause)) is not None:
                return self._told_end(code)
            if time.monotonic() > deadline:
                return f"not ready within {self._program.start_seconds:.0f} s"
            pause = min(pause * 1.5, 1.0)
        self.slot.turn(Slot.STATE_READY)
        if (code := await self._lives(child)) is not None:
            return self._told_end(code)
        why = self._pulse.hangs or f"{PROBES} probes without an answer"
        self.slot.turn(Slot.STATE_FAILED, f"hangs: {why}")
        await child.kill()  # those whose requests are on it have waited for long enough
        return self.slot.message

    async def _lives(self, child: Child) -> int | None:
        """Waits until it ends, and says with which exit code; None when it hangs."""
        missed = 0
        while missed < PROBES and self._pulse.hangs is None:
            pause = AGAIN_SECONDS if missed else PROBE_SECONDS
            due = time.monotonic() + pause
            if (code := await child.ends_within(pause)) is not None:
                return code
            if time.monotonic() > due + STALL_SECONDS:
                self._pulse.restart()
            missed = 0 if await self._answers() else missed + 1
            self._log.bound()
        return None

    async def _answers(self) -> bool:
        try:
            async with self._http.get(
                self._root + self._program.ready_path, timeout=PROBE_TIMEOUT
            ) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    def _told_end(self, code: int) -> str:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = self._log.last_line()
        return f"{how}: {last}" if last else how


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
