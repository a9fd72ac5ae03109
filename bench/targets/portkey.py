"""Portkey's gateway (Node), told by headers where to pass a request on to."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers import Absent, environment, version
from bench.programs import Door, Provider
from bench.targets.target import Running, Target, free_port, served


@contextmanager
def _start(provider: Provider, folder: Path) -> Iterator[Running]:
    node = shutil.which("node")
    if node is None:
        raise Absent("there is no `node`")
    package = environment("portkey") / "node_modules" / "@portkey-ai" / "gateway"
    port = free_port()
    headers = [
        "x-portkey-provider: openai",
        f"x-portkey-custom-host: http://127.0.0.1:{provider.port}/v1",
        "Authorization: Bearer none",
    ]
    command = [node, str(package / "build" / "start-server.js"), f"--port={port}", "--headless"]
    with served("portkey", command, Door(port, headers=headers), folder=folder) as running:
        yield running


TARGET = Target("portkey", f"Portkey {version('portkey')} (Node)", _start)
