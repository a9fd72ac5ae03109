"""The stack of chaos: two gateways, two replicas of inference, three workers, and a real Kafka.

Its engines write each token to a file before they send it: what they produced can be read there by
whoever does not believe the ledger. So does its provider `numbered`, which is the same program.
"""

import asyncio
import socket
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import yaml

from tests.platform import NANOS, Platform
from vlinders_embedded import answers
from vlinders_embedded.running import RunningStack, bring_up, take_down
from vlinders_embedded.supervisor import Part, Supervisor
from vlinders_kit.embedded.kafka import Kafka, NotObtainable, jars
from vlinders_kit.embedded.programs import Program, free_port, leashed, running

REPLICAS = {"gateway": 2, "inference": 2, "worker": 3}
SERVERS = ("postgres", "valkey")

NUMBERED = "numbered"
"""Model of the workers' engines, priced by PRICE."""
PROVIDED = "provided"
"""The same at a provider."""
SCRIPTED = ("plain", "metered")
"""Models of the providers that tests script, `platform.first` and, for `plain`, `.second`."""

INPUT, CACHED, OUTPUT = 3, 1, 7
"""Nanos for a token of NUMBERED and PROVIDED: sums tell which tokens were counted."""
GRANT = 1_000 * NANOS
"""What each tenant begins with."""
CALLS = 8
"""How many calls of the model `metered` a new tenant can pay for."""
METERED_TOKENS = 1_000

_ENGINE = Path(__file__).parents[2] / "worker" / "tests" / "numbered_engine.py"
_LONGEST = 100_000
_PRICE = {
    "input_price": f"{INPUT / NANOS:.9f}",
    "cached_input_price": f"{CACHED / NANOS:.9f}",
    "output_price": f"{OUTPUT / NANOS:.9f}",
}
_METERED = {"input_price": 0, "output_price": f"{GRANT / NANOS / CALLS / METERED_TOKENS:.9f}"}
_PLAIN = {"input_price": "0.000001", "output_price": "0.000002"}


@dataclass(frozen=True)
class Chaos:
    """The stack, and what its engines have produced."""

    platform: Platform
    folder: Path
    kafka: "KeptKafka | None"
    """None: the bus is PostgreSQL's."""

    @property
    def stack(self) -> RunningStack:
        return self.platform.stack

    @property
    def parts(self) -> tuple[str, ...]:
        """All that can be killed, by name."""
        kafka = ("kafka",) if self.kafka is not None else ()
        return (*self.stack.access["parts"], "engine", *kafka)

    def pids(self, part: str) -> list[int]:
        """The processes of a part, as they are now."""
        if part == "kafka":
            return self.kafka.pids() if self.kafka is not None else []
        if part == "engine":
            return [pid for worker in self.pids("worker") for pid in _engines_of(worker)]
        return self.stack.pids(part)

    def produced(self, name: str) -> list[int]:
        """Tokens of each attempt at the request of this `user`, by the engines' own files."""
        return [
            attempt
            for file in self.folder.glob(f"engines/*/{name}")
            for attempt in _attempts(file.read_text().split())
        ]

    async def serves(self) -> bool:
        """Whether every process is there and says that it serves."""
        wanted = {**dict.fromkeys(self.stack.access["parts"], 1), **REPLICAS}
        asked = []
        for part, number in wanted.items():
            processes = self.stack.access["parts"].get(part, [])
            if len(processes) < number:
                return False
            asked += [_asks(part, process) for process in processes]
        if len(self.pids("engine")) < REPLICAS["worker"]:
            return False
        return all(await asyncio.gather(*(ask() for ask in asked)))


class KeptKafka:
    """A broker of its own, started again when it ends, as whoever runs a broker has it."""

    def __init__(self, kafka: Kafka, folder: Path) -> None:
        self.address = kafka.address
        self._kafka = kafka
        self._folder = folder
        self._supervisor: Supervisor | None = None
        self._end: Future[Callable[[], Any]] = Future()
        self._thread = Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> "KeptKafka":
        # The thread that starts a leashed program has to live as long as it: this one does.
        self._thread.start()
        self._end.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.result()()
        self._thread.join()

    def pids(self) -> list[int]:
        return [pid for _, pid in self._supervisor.running()] if self._supervisor else []

    async def _run(self) -> None:
        try:
            await self._keep()
        except BaseException as error:  # whoever waits for it is told
            self._end.set_exception(error)
            raise

    async def _keep(self) -> None:
        told = asyncio.Event()
        program = self._kafka.program()
        part = Part(
            program.name, program.command, answers.program(program), prepare=self._kafka.prepare
        )
        log, nothing = self._folder, lambda *_: None
        async with Supervisor(log, report=nothing, changed=nothing) as supervisor:
            self._supervisor = supervisor
            await supervisor.start([part])
            end = partial(asyncio.get_running_loop().call_soon_threadsafe, told.set)
            self._end.set_result(end)
            await told.wait()


@contextmanager
def kept_kafka(cache: Path, folder: Path) -> Iterator[KeptKafka | None]:
    """A broker for the block; None where Kafka cannot be had."""
    try:
        found = jars(cache)
    except NotObtainable:
        yield None
        return
    folder.mkdir()
    broker = Kafka(folder / "kafka", found, free_port(), free_port())
    with KeptKafka(broker, folder) as kept:
        yield kept


@contextmanager
def brought_up(
    folder: Path, *, kafka: str | None, providers: list[Mapping[str, Any]]
) -> Iterator[RunningStack]:
    """The stack for the block; `providers` are those that tests script."""
    with ExitStack() as stack:
        port = free_port()
        log = folder / "provider.log"
        stack.enter_context(running(_provider(folder, port), log=log))
        own = {
            "name": PROVIDED,
            "base_url": f"http://127.0.0.1:{port}/v1",
            "models": {PROVIDED: {"upstream": NUMBERED, "context_length": _LONGEST, **_PRICE}},
        }
        variables = _variables(folder, [own, *providers])
        if kafka is not None:
            variables["KAFKA"] = kafka
        up = bring_up(folder / "var", port=free_port(), variables=variables)
        stack.callback(take_down, folder / "var")
        yield up


def models_of(*, second: bool) -> dict[str, Any]:
    """Models of a provider that tests script."""
    models: dict[str, Any] = {"plain": {"upstream": "plain-2026", **_PLAIN}}
    return models if second else models | {"metered": _METERED}


def _variables(folder: Path, providers: list[Mapping[str, Any]]) -> dict[str, str]:
    files = {
        "PROVIDERS": {"providers": providers},
        "CATALOGUE": {
            "models": {
                NUMBERED: {
                    "worker_model": NUMBERED,
                    "context_length": _LONGEST,
                    "max_tokens": _LONGEST // 2,
                    **_PRICE,
                }
            }
        },
        "ENGINES": {
            "engines": [
                {
                    "id": NUMBERED,
                    "engine": "command",
                    "model": NUMBERED,
                    "command": _engine("{port}", folder),
                    "counts": "continuous_usage",
                    "parallel": 512,
                    "context_length": _LONGEST,
                }
            ]
        },
    }
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return {
        **{name: str(folder / f"{name}.yaml") for name in files},
        "REPLICAS": " ".join(f"{part}={number}" for part, number in REPLICAS.items()),
        "VLINDERS_BILLING_SIGNUP_GRANT": str(GRANT // NANOS),
        # What a killed replica was lent is back within a test.
        "VLINDERS_BILLING_LEASE_LIFETIME": "PT15S",
        "VLINDERS_BILLING_LEASE_GRACE": "PT5S",
        "VLINDERS_BILLING_SWEEP_INTERVAL": "PT1S",
        "VLINDERS_GATEWAY_PLAN_RATES": "free=0,operator=0",
        "VLINDERS_GATEWAY_PUBLIC_RATE": "0",
        "VLINDERS_GATEWAY_STRANGER_RATE": "0",
        "VLINDERS_WORKER_SHOW_REQUESTS": "1",
    }


def _engine(port: str, folder: Path) -> list[str]:
    # A folder for each life of an engine: two attempts at one request are two files.
    return [sys.executable, str(_ENGINE), port, str(folder / "engines" / port)]


def _provider(folder: Path, port: int) -> Program:
    def serves() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return Program("provider", leashed(_engine(str(port), folder)), serves)


def _engines_of(worker: int) -> list[int]:
    try:
        children = psutil.Process(worker).children(recursive=True)
        return [child.pid for child in children if _ENGINE.name in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


def _attempts(numbers: list[str]) -> list[int]:
    """How far each count from one goes."""
    ends: defaultdict[int, int] = defaultdict(int)
    attempt = 0
    for number in map(int, numbers):
        attempt += number == 1
        ends[attempt] = number
    return list(ends.values())


def _asks(part: str, process: Mapping[str, Any]) -> answers.Asks:
    if part in SERVERS:
        return partial(answers.listens, process["tcp"])
    if part == "gateway":
        return answers.http(process["metrics"], "/readyz")
    if part == "worker":
        return answers.http(process["http"], "/readyz")
    return answers.grpc_health(process["grpc"])
