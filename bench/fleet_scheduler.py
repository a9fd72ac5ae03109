"""A scheduler process with a PostgreSQL of its own, for the benches of the fleet."""

import contextlib
import os
import secrets
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from psycopg.sql import SQL, Identifier

from vlinders_kit.embedded.postgres import Postgres
from vlinders_kit.embedded.programs import Program, free_port, leashed, running
from vlinders_kit.migrations import migrate

JOIN_TOKEN = "a join token for every bench run"
PICKS = "vlinders.gpu_scheduler.v1.PickService"
_LAG = "vlinders_loop_lag_seconds"


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

    def waited_seconds(self) -> float:
        """What its event loop has waited so far, with something to do, for the core."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1]) / 1e9

    def rss(self) -> int:
        return int(self.process.memory_info().rss)


@dataclass(frozen=True)
class Buckets:
    """A histogram: upper bound → how many were at most that."""

    counts: Mapping[float, float]

    def since(self, before: "Buckets") -> "Buckets":
        return Buckets({le: count - before.counts[le] for le, count in self.counts.items()})

    def bound(self, share: float) -> float:
        """The least bound that so large a share of the values does not exceed."""
        most = max(self.counts.values())
        return min(le for le, count in self.counts.items() if count >= share * most)


def lag(scheduler: SchedulerProcess) -> Buckets:
    """By how much the scheduler's event loop was late so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{scheduler.metrics_port}/metrics") as answer:
        text = answer.read().decode()
    return Buckets(
        {
            float(sample.labels["le"]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"{_LAG}_bucket"
        }
    )


@contextmanager
def pinned() -> Iterator[None]:
    """Keeps this process to the last core; schedulers of the block have the first to themselves,
    as far as others let them."""
    cores = os.sched_getaffinity(0)
    try:
        if len(cores) > 1:
            os.sched_setaffinity(0, {max(cores)})
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def scheduler_process(settings: Mapping[str, str] | None = None) -> Iterator[SchedulerProcess]:
    """A scheduler with `settings` (`BEAT`, `LEASE`, …), gone at the end of the block."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="vlinders-fleet-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = Postgres(folder / "postgres", free_port(), secrets.token_hex(8))
        server.prepare()
        stack.enter_context(running(server.program(), log=folder / "postgres.log"))
        told = {
            "DATABASE_URL": _database(server, "gpu_scheduler", "vlinders_gpu_scheduler"),
            "BUS": _database(server, "bus", "vlinders_kit.bus"),
            "CALLER_KEY": secrets.token_hex(32),
            "JOIN_TOKEN": JOIN_TOKEN,
            "PORT": str(free_port()),
            "METRICS_PORT": str(free_port()),
            "LOG_LEVEL": "ERROR",
            **(settings or {}),
        }
        port = int(told["PORT"])
        program = Program("gpu-scheduler", _command(told), lambda: _active(port))
        child = stack.enter_context(running(program, log=folder / "scheduler.log"))
        key = bytes.fromhex(told["CALLER_KEY"])
        yield SchedulerProcess(port, int(told["METRICS_PORT"]), key, psutil.Process(child.pid))


def _database(server: Postgres, name: str, package: str) -> str:
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    migrate(server.url(name), package)
    return server.url(name)


def _command(told: Mapping[str, str]) -> list[str]:
    variables = [f"VLINDERS_GPU_SCHEDULER_{name}={value}" for name, value in told.items()]
    module = [sys.executable, "-m", "vlinders_gpu_scheduler.main"]
    core = min(range(os.cpu_count() or 1))
    return leashed(["env", *variables, "taskset", "-c", str(core), *module])


def _active(port: int) -> bool:
    """Whether the scheduler takes workers."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        with contextlib.suppress(grpc.RpcError):
            answer = check(health_pb2.HealthCheckRequest(service=PICKS), timeout=1)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False
