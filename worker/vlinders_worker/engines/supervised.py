"""An engine that is a child process: started, watched, started again, and never left behind."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from vlinders.gpu_scheduler.v1.workers_pb2 import Slot
from vlinders_kit import logs
from vlinders_worker.engines.engine import SlotState
from vlinders_worker.engines.log_file import LogFile
from vlinders_worker.engines.programs import Program
from vlinders_worker.engines.upstream import Upstream

PROBE_SECONDS = 5.0
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=5)
PROBES = 3
"""So many probes without an answer, and the engine is taken for hung."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
STEADY_SECONDS = 60.0
"""Having run for so long, an engine that ends is started as if for the first time."""

STOP_SECONDS = 10.0

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
        )

    async def run(self) -> None:
        while True:
            began = time.monotonic()
            why = await self._live()
            if time.monotonic() - began > STEADY_SECONDS:
                self._wait = FIRST_WAIT
            self.slot.turn(Slot.STATE_FAILED, why)
            # Full jitter, so that engines that fell together do not come back together.
            await asyncio.sleep(random.uniform(self._wait / 2, self._wait))
            self._wait = min(self._wait * 2, LONGEST_WAIT)
            self.slot.turn(Slot.STATE_LOADING)

    async def _live(self) -> str:
        """One life of the process, from start to end; says why it ended."""
        self._port = _free_port()
        try:
            command = await self._program.command(self._port)
        except OSError as error:
            return f"cannot be prepared: {error}"
        with self._log.opened() as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **self._program.environment},
            )
        log.info("engine_started", slot_id=self.slot.id, pid=process.pid, port=self._port)
        ended = asyncio.ensure_future(process.wait())
        try:
            return await self._watch(ended)
        finally:
            await _end(process, ended)

    async def _watch(self, ended: "asyncio.Future[int]") -> str:
        """Waits until it is ready, then until it ends or hangs."""
        deadline = time.monotonic() + self._program.start_seconds
        pause = 0.05
        while not await self._answers():
            if await _within(pause, ended):
                return self._told_end(ended)
            if time.monotonic() > deadline:
                return f"not ready within {self._program.start_seconds} s"
            pause = min(pause * 1.5, 1.0)
        self.slot.turn(Slot.STATE_READY)
        missed = 0
        while missed < PROBES:
            if await _within(PROBE_SECONDS, ended):
                return self._told_end(ended)
            missed = 0 if await self._answers() else missed + 1
            self._log.bound()
        return f"{PROBES} probes without an answer"

    async def _answers(self) -> bool:
        try:
            async with self._http.get(
                self._root + self._program.ready_path, timeout=PROBE_TIMEOUT
            ) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    def _told_end(self, ended: "asyncio.Future[int]") -> str:
        code = ended.result()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = self._log.last_line()
        return f"{how}: {last}" if last else how


async def _within(seconds: float, ended: "asyncio.Future[int]") -> bool:
    """Whether the process ends within `seconds`."""
    done, _ = await asyncio.wait([ended], timeout=seconds)
    return bool(done)


async def _end(process: asyncio.subprocess.Process, ended: "asyncio.Future[int]") -> None:
    """Ends the process and its group; waits until it is gone, even while being cancelled."""
    for number, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        if ended.done():
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        await asyncio.wait([ended], timeout=patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
