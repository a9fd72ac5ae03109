"""The pytest plugin that ends what hangs: a test, or the process of one that cannot be ended.

pytest-timeout alone does not: uvloop runs the handler of its signal as any callback, where what it
raises ends nothing. Its settings hold here as well.
"""

import asyncio
import faulthandler
import inspect
import os
from collections.abc import Generator
from typing import Any

import pytest

GRACE_SECONDS = 30.0
"""Beyond a test's time for its fixtures to end. Then its process does, and tells its stacks."""

_SECONDS = pytest.StashKey[float]()
_STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STDERR] = os.dup(2)  # while a test runs, this is what captures


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_STDERR])


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> None:
    item.stash[_SECONDS] = settings.timeout
    _end_process_later(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """A failure is the end of all timers: pytest leaves time to look at it."""
    if _SECONDS in item.stash:
        _end_process_later(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_enter_pdb() -> None:
    faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Ends a coroutine at what it awaits, which its traceback then shows."""
    test, seconds = pyfuncitem.obj, pyfuncitem.stash.get(_SECONDS, None)

    async def within(**fixtures: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(**fixtures)

    if inspect.iscoroutinefunction(test) and not hasattr(test, "hypothesis"):
        pyfuncitem.obj = within
    return (yield)


def _end_process_later(item: pytest.Item) -> None:
    seconds = item.stash[_SECONDS] + GRACE_SECONDS
    faulthandler.dump_traceback_later(seconds, exit=True, file=item.config.stash[_STDERR])
