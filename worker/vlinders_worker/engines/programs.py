"""The programs that are engines: what to start for each kind, and how it shows that it is ready."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from vlinders_worker import models
from vlinders_worker.engines import leash
from vlinders_worker.engines.configuration import Command, LlamaCpp
from vlinders_worker.engines.llama_server import Options


class Program(Protocol):
    base_path: str
    ready_path: str
    start_seconds: float
    environment: Mapping[str, str]

    @property
    def configuration(self) -> LlamaCpp | Command: ...

    async def command(self, port: int) -> list[str]:
        """What to start, to listen at `port`. Raises OSError where something is missing."""
        ...


class LlamaProgram:
    base_path = "/v1"
    ready_path = "/health"
    start_seconds = 600.0
    environment: Mapping[str, str] = {}

    def __init__(self, configuration: LlamaCpp, models_dir: Path) -> None:
        self.configuration = configuration
        self._models_dir = models_dir

    async def command(self, port: int) -> list[str]:
        kept = self.configuration
        path = await asyncio.to_thread(models.find, kept.gguf, self._models_dir)
        options = Options(
            path=str(path),
            name=kept.served_name or kept.model,
            port=port,
            parallel=kept.parallel,
            context_length=kept.context_length,
            context_total=kept.context_total or kept.parallel * kept.context_length,
            batch=kept.batch,
            threads=kept.threads,
            gpu_layers=kept.gpu_layers,
            embeddings=kept.embeddings,
        )
        program = [sys.executable, "-m", "vlinders_worker.engines.llama_server"]
        return [*program, str(os.getpid()), msgspec.json.encode(options).decode()]


class CommandProgram:
    def __init__(self, configuration: Command) -> None:
        self.configuration = configuration
        self.base_path = configuration.base_path
        self.ready_path = configuration.ready_path
        self.start_seconds = float(configuration.start_seconds)
        self.environment: Mapping[str, str] = configuration.environment

    async def command(self, port: int) -> list[str]:
        program = [part.replace("{port}", str(port)) for part in self.configuration.command]
        # The leash needs the standard library only: with -I and -S it is small.
        return [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *program]
