"""A scheduler process with a PostgreSQL of its own, for the benches of the fleet."""

import contextlib
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vlinders_kit.embedded.postgres import Postgres
from vlinders_kit.embedded.programs import Program, free_port, leashed, running
from vlinders_kit.migrations import migrate

_PICKS = "vlinders.gpu_scheduler.v1.PickService"
JOIN_TOKEN = "a join token for every bench run"


@dataclass(frozen=True)
class SchedulerProcess:
    """One that is active."""

    port: int
    metrics_port: int
    caller_key: bytes
    process: psutil.Process

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """What it has used so far, all its threads, in user and system."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def rss(self) -> int:
        return int(self.process.memory_info().rss)


@contextmanager
def scheduler_process(
    settings: Mapping[str, str] | None = None, *, prefix: list[str] | None = None
) -> Iterator[SchedulerProcess]:
    """A scheduler with `settings` (`BEAT`, `LEASE`, …), gone at the end of the block."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="vlinders-fleet-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = Postgres(folder / "postgres", free_port(), secrets.token_hex(8))
        server.prepare()
        stack.enter_context(running(server.program(), log=folder / "postgres.log"))
        for name, package in (
            ("gpu_scheduler", "vlinders_gpu_scheduler"),
            ("bus", "vlinders_kit.bus"),
        ):
            with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
                admin.execute(f"CREATE DATABASE {name}".encode())
            migrate(server.url(name), package)
        caller_key = secrets.token_bytes(32)
        port, metrics_port = free_port(), free_port()
        told = {
            "DATABASE_URL": server.url("gpu_scheduler"),
            "BUS": server.url("bus"),
            "CALLER_KEY": caller_key.hex(),
            "JOIN_TOKEN": JOIN_TOKEN,
            "PORT": str(port),
            "METRICS_PORT": str(metrics_port),
            "LOG_LEVEL": "ERROR",
            **(settings or {}),
        }
        program = Program(
            "gpu-scheduler",
            [
                *(["env"]),
                *(f"VLINDERS_GPU_SCHEDULER_{name}={value}" for name, value in told.items()),
                *(prefix or leashed([])),
                *(sys.executable, "-m", "vlinders_gpu_scheduler.main"),
            ],
            lambda: _active(port),
        )
        child = stack.enter_context(running(program, log=folder / "scheduler.log"))
        yield SchedulerProcess(port, metrics_port, caller_key, psutil.Process(child.pid))


def _active(port: int) -> bool:
    """Whether the scheduler takes workers."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        with contextlib.suppress(grpc.RpcError):
            answer = check(health_pb2.HealthCheckRequest(service=_PICKS), timeout=1)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False
