"""What stands around the platform and is not its own: a broker, a provider, kept running.

As whoever runs them has it, they are started again when they end.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from vlinders_embedded import answers
from vlinders_embedded.supervisor import Part, Supervisor
from vlinders_kit.embedded.kafka import Kafka, NotObtainable, jars
from vlinders_kit.embedded.programs import free_port, leashed

ENGINE = Path(__file__).parents[2] / "worker" / "tests" / "numbered_engine.py"


class Kept:
    """Processes under a supervisor in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._supervisor: Supervisor | None = None
        self._end: Future[Callable[[], Any]] = Future()

    def pids(self, name: str) -> list[int]:
        """The process of that name, where it runs at the moment."""
        running = self._supervisor.running() if self._supervisor is not None else []
        return [pid for part, pid in running if part.name == name]

    @contextmanager
    def running(self, parts: Sequence[Part]) -> Iterator[None]:
        """The parts, serving, for the block."""
        # The thread that starts a leashed program has to live as long as it: this one does.
        thread = Thread(target=lambda: asyncio.run(self._run(parts)))
        thread.start()
        end = self._end.result()
        try:
            yield
        finally:
            end()
            thread.join()

    async def _run(self, parts: Sequence[Part]) -> None:
        try:
            await self._keep(parts)
        except BaseException as error:
            if self._end.done():
                raise
            self._end.set_exception(error)  # whoever waits for it is told

    async def _keep(self, parts: Sequence[Part]) -> None:
        told = asyncio.Event()

        def nothing(*_: object) -> None:
            """Nobody reads what it would say."""

        async with Supervisor(self._folder, report=nothing, changed=nothing) as supervisor:
            self._supervisor = supervisor
            await supervisor.start(parts)
            end = partial(asyncio.get_running_loop().call_soon_threadsafe, told.set)
            self._end.set_result(end)
            await told.wait()


def broker(cache: Path, folder: Path) -> tuple[Part, str] | None:
    """A broker with its data in `folder`, and its address; None where Kafka cannot be had."""
    try:
        found = jars(cache)
    except NotObtainable:
        return None
    kafka = Kafka(folder / "kafka", found, free_port(), free_port())
    program = kafka.program()
    serves = answers.program(program.serves)
    return Part(program.name, program.command, serves, prepare=kafka.prepare), kafka.address


def provider(folder: Path) -> tuple[Part, str]:
    """A provider whose tokens are in the files that `engine` writes, and its base URL."""
    address = f"127.0.0.1:{free_port()}"
    command = leashed(engine(address.rpartition(":")[2], folder))
    return Part("provider", command, partial(listens, address)), f"http://{address}/v1"


async def listens(address: str) -> bool:
    """Whether anything accepts connections there."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


def engine(port: str, folder: Path) -> list[str]:
    """The command of an engine. Each life of one writes to a folder of its own: two attempts at one
    request are two files."""
    return [sys.executable, str(ENGINE), port, str(folder / "engines" / port)]
