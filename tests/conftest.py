"""The stack that all journeys of a run share, however many processes run them."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from vlinders_embedded.running import RunningStack, bring_up, take_down
from vlinders_kit.embedded.programs import free_port

_HANDED = "vlinders_stack"
_PLACE = pytest.StashKey[dict[str, Any]]()


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> RunningStack:
    """All of Vlinders, as `make up` starts it: brought up by the first test that asks for it."""
    place = getattr(request.config, "workerinput", {}).get(_HANDED) or request.config.stash[_PLACE]
    var = Path(place["folder"]) / "var"
    printed = var.with_name("printed")
    with var.with_name("lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            up = bring_up(var, port=free_port(), ends_with=place["pid"])
            printed.write_text(up.printed)
    return RunningStack(var, printed.read_text())


class _Place:
    """With pytest-xdist: where the stack is, told to every worker by the controller."""

    def __init__(self, place: dict[str, Any]) -> None:
        self._place = place

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[_HANDED] = self._place


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    folder = Path(tempfile.mkdtemp(prefix="vlinders-stack-"))
    place = {"folder": str(folder), "pid": os.getpid()}
    config.stash[_PLACE] = place
    config.pluginmanager.register(_Place(place))

    def end() -> None:
        if (folder / "var").exists():
            take_down(folder / "var")
        shutil.rmtree(folder, ignore_errors=True)

    config.add_cleanup(end)
