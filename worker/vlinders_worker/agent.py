"""The agent: a host's engines, what they serve, and its place in the fleet, put together."""

import asyncio
import contextlib
import os
import sys
from collections import Counter as Tally
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import aiohttp
import psutil
from aiohttp import web

from vlinders.gpu_scheduler.v1.workers_pb2 import Gpu, Hello, Inventory, Slot
from vlinders_kit import logs, metrics
from vlinders_kit.clock import Clock, SystemClock
from vlinders_kit.pressure import Pressure
from vlinders_worker import gpus
from vlinders_worker.engines.configuration import Configuration, External, LlamaCpp
from vlinders_worker.engines.engine import Engine
from vlinders_worker.engines.external import ExternalEngine
from vlinders_worker.engines.programs import CommandProgram, LlamaProgram
from vlinders_worker.engines.sessions import session
from vlinders_worker.engines.supervised import SupervisedEngine
from vlinders_worker.identity import WorkerIdentity
from vlinders_worker.lease import Lease
from vlinders_worker.requests import Requests
from vlinders_worker.server import AgentServer
from vlinders_worker.settings import WorkerSettings
from vlinders_worker.stream import Changes, SchedulerStream
from vlinders_worker.tickets import Gate

GPUS_SECONDS = 300.0
"""How often the GPUs are looked at anew, and the whole inventory told again."""

MOST_RUNNING = 4096
"""Requests at a time; while the process is late it takes fewer, and tells the scheduler so."""

LEAST_RUNNING = 32
"""What it takes however late it is. Each is a stream that is read and written token by token, so
that a few dozen can keep a processor busy."""

MOST_WAITING = 4096
"""Connections that wait for a process that is behind. Who is not let in to wait tries again after
a second and then two, and has given up by then."""

LAST_WORDS_SECONDS = 2.0
"""For the ends of answers that are cut, and for Goodbye."""

SLOT_STATES = {number: name.removeprefix("STATE_").lower() for name, number in Slot.State.items()}

log = logs.get(__name__)


class Agent:
    """`serve` runs it until it is told to end, and then lets what runs finish."""

    def __init__(
        self,
        settings: WorkerSettings,
        identity: WorkerIdentity,
        configurations: Sequence[Configuration],
        pretended: Sequence[Gpu] | None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._configurations = configurations
        self._pretended = pretended
        self._gpus: Sequence[Gpu] = pretended or ()
        self._ends = False
        self.changes = Changes()
        self.lease = Lease(clock or SystemClock())
        self.requests = Requests(self.changes.load_changed)
        self.pressure = Pressure(
            MOST_RUNNING,
            lambda: len(self.requests),
            self.changes.load_changed,
            least=LEAST_RUNNING,
        )
        self.engines: dict[str, Engine] = {}
        self.server = AgentServer(
            Gate(identity.worker_id, self.lease),
            self.engines,
            self.requests,
            self.pressure,
            silence_seconds=settings.engine_silence_seconds,
            show_requests=settings.show_requests,
        )
        self.stream = SchedulerStream(
            [target.strip() for target in settings.scheduler.split(",")],
            join_token=settings.join_token.get_secret_value(),
            tls=settings.tls,
            lease=self.lease,
            requests=self.requests,
            pressure=self.pressure,
            changes=self.changes,
            hello=self._hello,
            inventory=self._inventory,
            drain=self._drain_as_asked,
            clock=clock or SystemClock(),
        )

        metrics.gauge("vlinders_worker_running", "Requests that run.", lambda: len(self.requests))
        metrics.gauge(
            "vlinders_worker_engines",
            "Engines, by what they are.",
            lambda: Tally((SLOT_STATES[each.slot.state],) for each in self.engines.values()),
            ("state",),
        )
        metrics.gauge(
            "vlinders_worker_lease_held",
            "1 while the scheduler lets this worker start requests.",
            lambda: float(self.lease.holds),
        )

    async def serve(self, told: asyncio.Event) -> None:
        """Runs until `told`; then drains, says Goodbye, and ends the engines."""
        async with session() as http, self.server:
            self.engines.update(
                (kept.id, self._engine(kept, http)) for kept in self._configurations
            )
            runner = web.AppRunner(
                self.server.app(), handler_cancellation=True, access_log=None, shutdown_timeout=1
            )
            await runner.setup()
            try:
                await self._listen(runner)
                await self._live(told)
            finally:
                await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> None:
        host, port = self._settings.host, self._settings.port
        try:
            await web.TCPSite(runner, host, port, backlog=MOST_WAITING).start()
        except OSError as error:
            sys.exit(f"cannot listen on {host}:{port}: {error.strerror or error}")

    async def _live(self, told: asyncio.Event) -> None:
        await self._look_at_gpus()
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(engine.run()) for engine in self.engines.values()]
            running.append(group.create_task(self._watch_gpus()))
            running.append(group.create_task(self.pressure.run()))
            stream = group.create_task(self.stream.run())
            log.info("ready", address=self._settings.reached_at, worker_id=self._identity.worker_id)
            await told.wait()
            log.info("draining", running=len(self.requests))
            self._ends = True
            await self._drain(timedelta(seconds=self._settings.drain_seconds))
            self.stream.leave()
            await asyncio.wait([stream], timeout=LAST_WORDS_SECONDS)
            for task in (stream, *running):
                task.cancel()
        log.info("stopped")

    async def _drain_as_asked(self, limit: timedelta) -> None:
        """As the scheduler asks. If its stream is lost, it asks again, or has changed its mind."""
        try:
            await self._drain(limit)
        except asyncio.CancelledError:
            if not self._ends:
                self.server.closed = None
            raise

    async def _drain(self, limit: timedelta) -> None:
        """Takes nothing new, waits for what runs, and cuts what still runs at the limit."""
        self.server.closed = "it is being drained"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit.total_seconds()):
                await self.requests.until_idle()
        self.requests.cut("the worker is being stopped")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await self.requests.until_idle()

    def _engine(self, kept: Configuration, http: aiohttp.ClientSession) -> Engine:
        changed = self.changes.inventory_changed
        if isinstance(kept, External):
            return ExternalEngine(kept, http, changed)
        state: Path = self._settings.state_dir
        program = (
            LlamaProgram(kept, state / "models")
            if isinstance(kept, LlamaCpp)
            else CommandProgram(kept)
        )
        return SupervisedEngine(program, http=http, logs_dir=state / "logs", changed=changed)

    async def _watch_gpus(self) -> None:
        while True:
            await asyncio.sleep(GPUS_SECONDS)
            await self._look_at_gpus()
            self.changes.inventory_changed()

    async def _look_at_gpus(self) -> None:
        """In a thread and ahead of need: a driver may take its time, a beat has none."""
        if self._pretended is None:
            self._gpus = await asyncio.to_thread(gpus.read)

    def _hello(self) -> Hello:
        return Hello(
            worker_id=self._identity.worker_id,
            boot_id=self._identity.boot_id,
            agent_version=version("vlinders-worker"),
            address=self._settings.reached_at,
            last_epoch=self.lease.epoch,
            inventory=self._inventory(),
            running_request_ids=self.requests.running,
            host_name=self._settings.host_name,
        )

    def _inventory(self) -> Inventory:
        return Inventory(
            gpus=self._gpus,
            slots=[engine.slot.told() for engine in self.engines.values()],
            memory_bytes=psutil.virtual_memory().total,
            cpu_count=os.cpu_count() or 1,
        )
