"""Tests that hang are ended, and say where, whatever they hang in."""

import subprocess
import sys
from pathlib import Path

CONFTEST = """
import pytest

from vlinders_kit.testing import timeouts

timeouts.GRACE_SECONDS = 0.5
pytest_plugins = ["vlinders_kit.testing.timeouts"]


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio", {"use_uvloop": True}
"""


def outcome(folder: Path, tests: str) -> str:
    """What pytest says of these tests, which have half a second each."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text("import asyncio, pytest\n" + tests)
    (folder / "pytest.ini").write_text("[pytest]\nanyio_mode = auto\ntimeout = 0.5\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:valkey"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    return done.stdout + done.stderr


def test_one_that_waits_for_ever_fails_where_it_waits_and_the_next_runs(tmp_path: Path) -> None:
    told = outcome(
        tmp_path,
        "async def test_first():\n"
        "    await asyncio.Event().wait()  # here\n"
        "async def test_second():\n"
        "    pass\n",
    )
    assert "1 failed, 1 passed" in told
    assert "# here" in told
    assert "TimeoutError" in told


def test_what_cannot_be_ended_ends_its_process_with_its_stacks(tmp_path: Path) -> None:
    """Not even when the test itself has failed before."""
    told = outcome(
        tmp_path,
        "@pytest.fixture\n"
        "async def stuck():\n"
        "    yield\n"
        "    await asyncio.Event().wait()\n"
        "async def test_first(stuck):\n"
        "    assert False\n",
    )
    assert "most recent call first" in told
