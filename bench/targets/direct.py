"""The provider itself, with nothing between: what every latency contains."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.programs import Door, Provider
from bench.targets.target import Running, Target


@contextmanager
def _start(provider: Provider, folder: Path) -> Iterator[Running]:
    yield Running(Door(provider.port), lambda: {"provider": [provider.pid]})


TARGET = Target("direct", "the provider itself", _start)
