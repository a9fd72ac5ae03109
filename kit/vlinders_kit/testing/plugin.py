"""The pytest plugin: one PostgreSQL a run, a database of its own for every test, Valkey, uvloop."""

import asyncio
import gc
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from vlinders_kit.db import Database
from vlinders_kit.embedded.postgres import FOR_TESTS, Postgres
from vlinders_kit.embedded.programs import free_port, running
from vlinders_kit.embedded.valkey import Valkey
from vlinders_kit.testing.databases import Cluster

_HANDED = "vlinders_postgres"

# uvloop starts programs by a fork, in which Python tidies up before the program is there. Garbage
# that is collected just then may be of gRPC, which waits for ever for threads that a fork has not.
os.register_at_fork(before=gc.disable, after_in_parent=gc.enable)

# How long an example takes says how busy the machine is.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Tests run on the event loop of the parts."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session", autouse=True)
async def _one_loop(anyio_backend: Any) -> AsyncIterator[None]:
    """Holds one event loop for the run: gRPC's thread still speaks to that of a test that is over,
    and raises in the next test when it is closed."""
    yield  # noqa: PT022 - only a fixture that is not over holds it


@pytest.fixture(autouse=True)
async def _no_task_outlives_its_test(_one_loop: None) -> AsyncIterator[None]:
    """Ends what a test has left behind, as the end of a loop of its own would."""
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if not _is_anyios(task)}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=5)


def _is_anyios(task: "asyncio.Task[Any]") -> bool:
    """Whether it is what runs the test, or this fixture."""
    return getattr(task.get_coro(), "__qualname__", "").startswith("TestRunner.")


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The run's server. One that does not start is an error of every test that needs it."""
    with ExitStack() as stack:
        handed = getattr(request.config, "workerinput", {}).get(_HANDED)
        cluster = Cluster(handed or stack.enter_context(_server()))
        stack.callback(cluster.close)
        yield cluster


@pytest.fixture
def database_url(postgres: Cluster, package: str) -> Iterator[str]:
    """The URL of a database of the test's own, migrated for the service whose test it is."""
    with postgres.database(package) as url:
        yield url


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """That database, opened as the service opens it."""
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture
def valkey(_valkey: Valkey) -> str:
    """The URL of an empty Valkey."""
    import redis

    with redis.Redis.from_url(_valkey.url) as client:
        client.flushall()
    return _valkey.url


@pytest.fixture(scope="session")
def _valkey() -> Iterator[Valkey]:
    with _folder("valkey") as folder:
        server = Valkey(folder / "data", free_port(), "test", lasting=False)
        server.prepare()
        with running(server.program(), log=folder / "log"):
            yield server


class _SharedByWorkers:
    """With pytest-xdist: the server is the controller's, which outlives every worker."""

    def __init__(self, config: pytest.Config) -> None:
        self._url: str | None = None
        self._stack = ExitStack()
        config.add_cleanup(self._stack.close)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        if self._url is None:
            self._url = self._stack.enter_context(_server())
        node.workerinput[_HANDED] = self._url


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_SharedByWorkers(config))


@contextmanager
def _server() -> Iterator[str]:
    with _folder("postgres") as folder:
        server = Postgres(folder / "data", free_port(), "test", FOR_TESTS)
        server.prepare()
        with running(server.program(), log=folder / "log"):
            yield server.url("postgres")


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"vlinders-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
