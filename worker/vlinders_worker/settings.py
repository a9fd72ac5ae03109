"""Settings of the worker agent."""

import socket
from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr

from vlinders_kit.settings import TlsSettings, TracedSettings


class WorkerSettings(TlsSettings, TracedSettings):
    prefix: ClassVar[str] = "VLINDERS_WORKER"

    scheduler: str = Field(min_length=1)
    """Where gpu-scheduler is, as `host:port`; several, by comma, are tried one after the other."""

    join_token: SecretStr = Field(min_length=1)
    """Token that lets a worker into the fleet; the scheduler has the same."""

    engines: Path
    """YAML file that lists the engines of this host."""

    state_dir: Path
    """Directory of its own: the worker's lasting id, built-in models, logs of the engines."""

    host: str = "127.0.0.1"
    """Address to listen on, for inference."""

    port: int = Field(9200, ge=1, le=65535)
    """Port to listen on, for inference."""

    address: str | None = None
    """URL at which inference reaches this agent; by default `http://HOST:PORT`."""

    host_name: str = Field(default_factory=socket.gethostname)
    """Name of this host, as operators see it."""

    pretend_gpus: Path | None = None
    """JSON or YAML list of GPUs to show instead of real ones, marked as pretended; for tests."""

    engine_silence_seconds: float = Field(300, gt=0)
    """An engine that sends nothing for so long in the middle of an answer has failed."""

    drain_seconds: float = Field(30, ge=0)
    """How long running requests may go on after the agent was told to end."""

    show_requests: bool = False
    """Serves `GET /v1/requests/{id}`, what an engine produced, to this host only; for tests."""

    metrics_port: int = Field(0, ge=0, le=65535)
    """Port of `/healthz`, `/readyz` and `/metrics`, for probes and Prometheus; 0 serves none."""

    log_level: str = "INFO"
    """Least level of the log lines that are written."""

    @property
    def reached_at(self) -> str:
        return self.address or f"http://{self.host}:{self.port}"
