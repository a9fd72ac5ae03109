"""Settings of the inference service, each a variable `VLINDERS_INFERENCE_…`."""

from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from vlinders_inference.engines import Timeouts
from vlinders_kit.settings import ServiceSettings


class InferenceSettings(ServiceSettings):
    prefix: ClassVar = "VLINDERS_INFERENCE"

    billing: str
    """Where billing is: a gRPC target."""

    gpu_scheduler: str
    """Where the gpu-scheduler is: a gRPC target."""

    pipe_port: int = Field(ge=1, le=65535)
    """Port at which gateways open their pipes."""

    catalogue: Path | None = None
    """YAML file of the models on own workers."""

    providers: Path | None = None
    """YAML file of the upstream providers and their models."""

    sealing_key_file: Path
    """JSON file of the keys that seal provider keys: `{"current": id, "keys": {id: hex32}}`."""

    connect_timeout: timedelta = timedelta(seconds=3)
    """How long a connection to an engine may take to be made."""

    first_byte_timeout: timedelta = timedelta(seconds=120)
    """How long an engine may take to begin its answer."""

    idle_timeout: timedelta = timedelta(seconds=30)
    """How long an answer that has begun may stand still."""

    @property
    def timeouts(self) -> Timeouts:
        return Timeouts(
            connect=self.connect_timeout.total_seconds(),
            first_byte=self.first_byte_timeout.total_seconds(),
            idle=self.idle_timeout.total_seconds(),
        )
