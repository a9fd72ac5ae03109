"""The GPUs of this host, as NVML tells; or as a file pretends, for tests and demonstrations."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pynvml
import yaml
from google.protobuf.json_format import ParseDict, ParseError

from vlinders.gpu_scheduler.v1.workers_pb2 import Gpu

T = TypeVar("T")


def read() -> list[Gpu]:
    """One entry for each GPU; none where there is no driver. Takes some milliseconds."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        looked_at = [_if_told(partial(_gpu, n)) for n in range(pynvml.nvmlDeviceGetCount())]
        return [gpu for gpu in looked_at if gpu is not None]
    finally:
        pynvml.nvmlShutdown()


def pretend(path: Path) -> list[Gpu]:
    """The GPUs that a file lists, each marked as pretended; exits when the file is wrong.

    Fields are those of `Gpu`, as `{uuid: GPU-1, name: "H100", memory_total_bytes: 85899345920}`.
    """
    try:
        listed: Any = yaml.safe_load(path.read_text())  # JSON is YAML too
    except (OSError, yaml.YAMLError) as error:
        sys.exit(f"{path}: cannot be read: {error}")
    if not isinstance(listed, list):
        sys.exit(f"{path}: must be a list of GPUs")
    gpus = []
    for number, fields in enumerate(listed):
        gpu = Gpu(uuid=f"GPU-pretended-{number}", name="Pretended GPU")
        try:
            ParseDict(fields, gpu)
        except (ParseError, AttributeError, TypeError) as error:
            sys.exit(f"{path}: GPU {number}: {error}")
        gpu.pretended = True
        gpus.append(gpu)
    return gpus


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    milliwatts = _if_told(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    return Gpu(
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        memory_total_bytes=memory.total,
        memory_free_bytes=memory.free,
        utilization_percent=_if_told(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        temperature_celsius=_if_told(
            lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
        ),
        power_watts=None if milliwatts is None else milliwatts / 1000,
    )


def _if_told(ask: Callable[[], T]) -> T | None:
    """What the driver says; None for what it does not: a fallen GPU, or its power under MIG."""
    try:
        return ask()
    except pynvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
