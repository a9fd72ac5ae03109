"""The pytest plugin for Kafka: one broker a run, started when the first test asks for it.

Where it cannot run, the tests that need it are skipped and the end of the run says so, loudly; with
REQUIRE_KAFKA=1 they fail.
"""

import os
import shutil
import tempfile
from contextlib import ExitStack
from multiprocessing.connection import Client, Listener
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest

from vlinders_kit.embedded.kafka import Kafka, NotObtainable, jars
from vlinders_kit.embedded.programs import free_port, running

_HANDED = "vlinders_kafka"
_WHY = "needs Kafka: "


class _Broker:
    """The run's broker, or why there is none."""

    def __init__(self, config: pytest.Config) -> None:
        self._cache = config.rootpath / ".cache" / "kafka"
        self._lock = Lock()
        self._stack = ExitStack()
        self._answer: tuple[str, str] | None = None
        config.add_cleanup(self._stack.close)

    def answer(self) -> tuple[str, str]:
        """Its address and nothing, or nothing and why."""
        with self._lock:
            if self._answer is None:
                try:
                    self._answer = self._start(), ""
                except NotObtainable as error:
                    self._answer = "", str(error)
            return self._answer

    def _start(self) -> str:
        folder = Path(tempfile.mkdtemp(prefix="vlinders-kafka-"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        broker = Kafka(folder, jars(self._cache), free_port(), free_port())
        broker.prepare()
        self._stack.enter_context(running(broker.program(), log=folder / "log", seconds=60))
        return broker.address


class _Lender:
    """With pytest-xdist: the broker is the controller's, and a worker asks for it over a socket."""

    def __init__(self, broker: _Broker) -> None:
        self._broker = broker
        self._key = os.urandom(32)
        self._listener: Listener | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        if self._listener is None:
            self._listener = Listener(authkey=self._key)
            # The thread that starts a leashed program has to live as long as it: this one does.
            Thread(target=self._lend, args=(self._listener,), daemon=True).start()
        node.workerinput[_HANDED] = self._listener.address, self._key.hex()

    def _lend(self, listener: Listener) -> None:
        while True:
            with listener.accept() as asking:
                asking.send(self._broker.answer())


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        broker = config.stash[_BROKER] = _Broker(config)
        config.pluginmanager.register(_Lender(broker))


_BROKER = pytest.StashKey[_Broker]()


@pytest.fixture(scope="session")
def _kafka(request: pytest.FixtureRequest) -> tuple[str, str]:
    handed = getattr(request.config, "workerinput", {}).get(_HANDED)
    if handed is None:
        return request.config.stash[_BROKER].answer()
    with Client(handed[0], authkey=bytes.fromhex(handed[1])) as asking:
        answer: tuple[str, str] = asking.recv()
        return answer


@pytest.fixture
def kafka(_kafka: tuple[str, str]) -> str:
    """Address of the run's broker, `host:port`. All tests share it: name topics for the test."""
    address, why = _kafka
    if why and os.environ.get("REQUIRE_KAFKA") == "1":
        pytest.fail(_WHY + why)
    if why:
        pytest.skip(_WHY + why)
    return address


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", ())
        if isinstance(report.longrepr, tuple) and _WHY in report.longrepr[2]
    ]
    if skipped:
        why = skipped[0].longrepr[2].partition(_WHY)[2]
        terminalreporter.section("KAFKA WAS NOT RUN", sep="!", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests on a real Kafka did not run. {why}")
        terminalreporter.line("REQUIRE_KAFKA=1 makes this a failure.")
