"""The agent as a person starts it: options, readable errors, and what its death leaves behind."""

import asyncio
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from vlinders_kit.embedded.programs import free_port


@pytest.fixture
def options(scheduler: Any, numbered: Any, tmp_path: Path) -> dict[str, str]:
    engines = tmp_path / "engines.yaml"
    loose = f"setsid sleep 600 & exec {shlex.join(numbered['command'])}"
    engine = {**numbered, "command": ["sh", "-c", loose]}
    engines.write_text(yaml.safe_dump({"engines": [engine]}))
    return {
        "scheduler": f"127.0.0.1:{scheduler.port}",
        "join-token": "join-me",
        "engines": str(engines),
        "state-dir": str(tmp_path / "state"),
        "port": str(free_port()),
    }


def start(options: dict[str, str]) -> subprocess.Popen[str]:
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    command = [sys.executable, "-m", "vlinders_worker", *given]
    return subprocess.Popen(command, env={}, stderr=subprocess.PIPE, text=True)


async def ended(process: subprocess.Popen[str]) -> str:
    """What it has written when it has ended."""
    _, told = await asyncio.to_thread(process.communicate)
    return told


@pytest.fixture
async def started(options: Any, scheduler: Any) -> AsyncIterator[subprocess.Popen[str]]:
    with start(options) as process:
        await scheduler.until_ready("numbered")
        yield process
        process.kill()


async def test_it_joins_and_leaves_in_order(started: Any, scheduler: Any) -> None:
    started.terminate()

    told = await ended(started)

    assert started.returncode == 0, told
    assert scheduler.all("goodbye")


async def test_its_engines_die_with_it_however_it_dies(started: Any) -> None:
    family = psutil.Process(started.pid).children(recursive=True)
    assert len(family) == 3  # the leash, its program, and what that has set loose

    started.send_signal(signal.SIGKILL)

    _, alive = await asyncio.to_thread(psutil.wait_procs, family, timeout=5)
    assert alive == []


async def test_a_second_agent_with_the_same_state_says_so(started: Any, options: Any) -> None:
    second = start({**options, "port": str(free_port())})

    told = await ended(second)

    assert second.returncode == 1
    assert "another worker agent runs with this state directory" in told


async def test_a_port_that_is_taken_is_said(started: Any, options: Any, tmp_path: Path) -> None:
    second = start({**options, "state-dir": str(tmp_path / "other")})

    told = await ended(second)

    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{options['port']}" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({"join-token": None}, 2, "VLINDERS_WORKER_JOIN_TOKEN: Field required. Token that lets"),
        ({"engines": "/none.yaml"}, 1, "/none.yaml: cannot be read"),
        ({"pretend-gpus": "/none.json"}, 1, "/none.json: cannot be read"),
        ({"port": "0"}, 2, "VLINDERS_WORKER_PORT: "),
    ],
    ids=str,
)
async def test_what_is_missing_is_said_in_words(
    options: Any, changed: dict[str, str | None], code: int, said: str
) -> None:
    given = {name: value for name, value in {**options, **changed}.items() if value is not None}
    process = start(given)

    told = await ended(process)

    assert process.returncode == code
    assert said in told
    assert "Traceback" not in told


async def test_pretended_gpus_are_marked_wherever_they_show(
    options: Any, scheduler: Any, tmp_path: Path
) -> None:
    pretended = tmp_path / "gpus.json"
    pretended.write_text('[{"name": "H100", "memory_total_bytes": 85899345920}, {}]')
    process = start({**options, "pretend-gpus": str(pretended)})
    try:
        await scheduler.until(lambda: scheduler.hellos)
    finally:
        process.terminate()
        await ended(process)

    first, second = scheduler.hellos[0].inventory.gpus
    assert (first.name, first.memory_total_bytes) == ("H100", 85899345920)
    assert first.pretended
    assert second.pretended
    assert first.uuid != second.uuid
