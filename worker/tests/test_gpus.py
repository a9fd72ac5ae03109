"""What NVML says is told; what it does not say is left out."""

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from vlinders_worker import gpus


def test_a_host_without_a_driver_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)

    assert gpus.read() == []


def test_a_gpu_that_does_not_tell_its_power_is_told_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def untold(*_: Any) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    told = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=80, free=60),
        "nvmlDeviceGetUUID": lambda _: b"GPU-1",
        "nvmlDeviceGetName": lambda _: "H100",
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=7),
        "nvmlDeviceGetTemperature": lambda *_: 41,
        "nvmlDeviceGetPowerUsage": untold,
    }
    for name, tell in told.items():
        monkeypatch.setattr(pynvml, name, tell)

    [gpu] = gpus.read()

    assert (gpu.uuid, gpu.name, gpu.memory_free_bytes) == ("GPU-1", "H100", 60)
    assert (gpu.utilization_percent, gpu.temperature_celsius) == (7, 41)
    assert not gpu.HasField("power_watts")
    assert not gpu.pretended
