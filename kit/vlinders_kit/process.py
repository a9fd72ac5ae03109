"""The life of a part's process: start, ready, drain, stop in order."""

import asyncio
import contextlib
import gc
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from vlinders_kit import internal, logs, metrics, tracing
from vlinders_kit.callers import CallerKey
from vlinders_kit.rpc import SERVER_OPTIONS, Guard
from vlinders_kit.settings import PartSettings
from vlinders_kit.tls import Tls

DRAIN = timedelta(seconds=30)
"""How long what runs may go on after the process was told to end, all of it together."""

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

log = logs.get(__name__)


class Process:
    """A gRPC service as a process.

        async with Process("vlinders.auth", port=50051, key=key) as process:
            process.serve("vlinders.auth.v1.ApiKeyService", add_…_to_server, ApiKeyService(db))
            process.closers.append(db.close)

    The block builds the part. At its end the server starts, the part is ready, and it serves until
    SIGTERM or SIGINT. Then it is not ready any more, and says so at once; `drains` are
    awaited and running calls end, all within `DRAIN`; background tasks are cancelled; and `closers`
    run, last first. A background task that ends by itself ends the process with exit code 1: a
    supervisor starts it again.
    """

    def __init__(
        self,
        name: str,
        *,
        port: int,
        key: CallerKey,
        host: str = "127.0.0.1",
        metrics_port: int = 0,
        traces: str | None = None,
        sampled: float = 0.01,
        slow: float = tracing.SLOW_SECONDS,
        log_level: str = "INFO",
        tls: Tls | None = None,
    ) -> None:
        logs.configure(name, level=log_level)
        metrics.told_of(name)
        tracing.export(name, traces, sampled=sampled, slow=slow)
        self.name = name
        self.address = f"{host}:{port}"
        self.metrics_port = metrics_port
        self.tls = tls
        self.server = grpc.aio.server(interceptors=[Guard(name, key)], options=SERVER_OPTIONS)
        self.services: list[str] = []
        """Full names of what is served, for reflection."""
        self.closers: list[Callable[[], Awaitable[Any]]] = []
        self.drains: list[Callable[[], Awaitable[Any]]] = []
        self._tasks: list[tuple[str, Callable[[], Awaitable[Any]]]] = []
        self._health = health.aio.HealthServicer()
        self._withheld: set[str] = set()
        self._ready = False

    @classmethod
    def of(cls, name: str, settings: PartSettings) -> Self:
        """The process that the settings of a part ask for."""
        return cls(
            name,
            port=settings.port,
            key=settings.key,
            host=settings.host,
            metrics_port=settings.metrics_port,
            traces=settings.traces,
            sampled=settings.traces_sampled,
            slow=settings.traces_slow,
            log_level=settings.log_level,
            tls=settings.tls,
        )

    def serve(self, service: str, add: Callable[[Any, Any], None], servicer: Any) -> None:
        """Serves `servicer` under the full name `service`, which reflection tells."""
        add(servicer, self.server)
        self.services.append(service)

    async def offer(self, service: str, *, offered: bool) -> None:
        """Has health say of one service whether it can be used here, where the others can.

        Each can, once the process is ready, unless this was told otherwise before. `service` may
        as well be a name for health alone.
        """
        self._withheld -= {service}
        if not offered:
            self._withheld |= {service}
        if self._ready:
            await self._health.set(service, _status(offered))

    def background(self, name: str, run: Callable[[], Awaitable[Any]]) -> None:
        """Has `run` go on for as long as the process serves."""
        self._tasks.append((name, run))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await self._serve()
        finally:
            for close in reversed(self.closers):
                try:
                    await close()
                except Exception as failure:  # the others must be closed all the same
                    log.error("close_failed", exc_info=failure)
            await tracing.close()

    async def _serve(self) -> None:
        self._open()
        async with AsyncExitStack() as stack:
            if self.metrics_port:
                host = self.address.rpartition(":")[0]
                inside = internal.serving(host, self.metrics_port, lambda: self._ready)
                await stack.enter_async_context(inside)
                self.background("event loop", metrics.watch_loop)
            await self.server.start()
            told = _signalled()
            running = [asyncio.create_task(_named(run), name=name) for name, run in self._tasks]
            await self._become_ready()
            spare_collections()
            log.info("ready", address=self.address)
            try:
                await asyncio.wait([told, *running], return_when=asyncio.FIRST_COMPLETED)
            finally:
                failed = [task for task in running if task.done() and not task.cancelled()]
                await self._drain()
                await _end(running)
        for task in failed:
            log.error("background_task_ended", task=task.get_name(), exc_info=task.exception())
        log.info("stopped")
        if failed:
            sys.exit(1)

    def _open(self) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        names = (*self.services, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.server)
        try:
            if self.tls is None:
                self.server.add_insecure_port(self.address)
            else:
                self.server.add_secure_port(self.address, self.tls.for_server())
        except RuntimeError:
            sys.exit(f"{self.name}: cannot listen on {self.address}")

    async def _become_ready(self) -> None:
        self._ready = True
        for service in {"", *self.services, *self._withheld}:
            await self._health.set(service, _status(service not in self._withheld))

    async def _drain(self) -> None:
        """Lets what runs end, for as long as `DRAIN` says, and then ends it."""
        log.info("draining")
        self._ready = False
        await self._health.enter_graceful_shutdown()
        deadline = time.monotonic() + DRAIN.total_seconds()
        for drain in self.drains:
            try:
                async with asyncio.timeout(_left(deadline)):
                    await drain()
            except Exception as failure:  # what else runs must be ended all the same
                log.error("drain_failed", exc_info=failure)
        await self.server.stop(_left(deadline))


def _status(serving: bool) -> Any:
    status = health_pb2.HealthCheckResponse
    return status.SERVING if serving else status.NOT_SERVING


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancels the tasks until they have ended.

    Once may not be enough: in Python 3.11 `asyncio.wait_for` loses a cancellation that comes in the
    moment in which what it waits for is done.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1)


async def _named(run: Callable[[], Awaitable[Any]]) -> None:
    await run()


def _signalled() -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        with contextlib.suppress(asyncio.InvalidStateError):
            told.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell)
    return told


def spare_collections() -> None:
    """Has the garbage collector leave alone what the start has made, and come less often.

    That is most of the objects there are, it is never garbage, and looking through it again and
    again took a third of the CPU of a request. What a failed or abandoned request leaves is garbage
    in cycles, though: ten thousand objects of it, a few megabytes, are as much as may lie about.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def run(main: Awaitable[Any]) -> None:
    """Runs a part's `main` on uvloop, the event loop of every part."""
    import uvloop

    uvloop.run(main)  # type: ignore[arg-type]
