"""The agent as a person starts it: options, readable errors, and what its death leaves behind."""

import asyncio
import shlex
import signal
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


async def start(options: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vlinders_worker"),
        *(part for name, value in options.items() for part in (f"--{name}", value)),
        env={},
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.fixture
async def started(options: Any, scheduler: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await start(options)
    await scheduler.until_ready("numbered")
    yield process
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def test_it_joins_and_leaves_in_order(started: Any, scheduler: Any) -> None:
    started.terminate()

    _, told = await started.communicate()

    assert started.returncode == 0, told.decode()
    assert scheduler.all("goodbye")


async def test_its_engines_die_with_it_however_it_dies(started: Any) -> None:
    family = psutil.Process(started.pid).children(recursive=True)
    assert len(family) == 3  # the leash, its program, and what that has set loose

    started.send_signal(signal.SIGKILL)

    _, alive = await asyncio.to_thread(psutil.wait_procs, family, timeout=5)
    assert alive == []


async def test_a_second_agent_with_the_same_state_says_so(started: Any, options: Any) -> None:
    second = await start({**options, "port": str(free_port())})

    _, told = await second.communicate()

    assert second.returncode == 1
    assert "another worker agent runs with this state directory" in told.decode()


async def test_a_port_that_is_taken_is_said(started: Any, options: Any, tmp_path: Path) -> None:
    second = await start({**options, "state-dir": str(tmp_path / "other")})

    _, told = await second.communicate()

    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{options['port']}" in told.decode()
    assert "Traceback" not in told.decode()


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
    process = await start(given)

    _, told = await process.communicate()

    assert process.returncode == code
    assert said in told.decode()
    assert "Traceback" not in told.decode()


async def test_pretended_gpus_are_marked_wherever_they_show(
    options: Any, scheduler: Any, tmp_path: Path
) -> None:
    pretended = tmp_path / "gpus.json"
    pretended.write_text('[{"name": "H100", "memory_total_bytes": 85899345920}, {}]')
    process = await start({**options, "pretend-gpus": str(pretended)})
    try:
        await scheduler.until(lambda: scheduler.hellos)
    finally:
        process.terminate()
        await process.communicate()

    first, second = scheduler.hellos[0].inventory.gpus
    assert (first.name, first.memory_total_bytes) == ("H100", 85899345920)
    assert first.pretended
    assert second.pretended
    assert first.uuid != second.uuid
