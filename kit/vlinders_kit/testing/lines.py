"""Lines between processes, as tests need them: held in one direction or both, cut, or forgetful."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any, Literal

Way = Literal["there", "back"]
"""From who connects to whom he reaches, and what that one answers."""

WAYS: tuple[Way, ...] = ("there", "back")
_CHUNK = 65_536
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that ends a connection by RST."""


class Line:
    """A TCP line to `target` that connects at `port` of 127.0.0.1; made by `line`.

    It has a thread of its own, as it would be a machine of its own; any thread may call it.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.port = 0
        self.lost = 0
        """Answers to a COMMIT that nobody got."""
        self._to_lose = 0
        self._loop = asyncio.get_running_loop()
        self._open = {way: asyncio.Event() for way in WAYS}
        self._calls: set[_Call] = set()
        self._pass()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def calls(self) -> int:
        """Connections that are open."""
        return len(self._calls)

    @contextmanager
    def held(self, *ways: Way) -> Iterator[None]:
        """For the block, nothing passes in `ways` (in both where none is named), on connections
        that are there and new ones. What waited passes when it is over, as after a partition."""
        self._do(partial(self._hold, ways or WAYS))
        try:
            yield
        finally:
            self._do(self._pass)

    def cut(self) -> None:
        """Resets every connection."""
        self._do(self._cut)

    def lose_commits(self, number: int = 1) -> None:
        """Has the answers to the next so many COMMITs of PostgreSQL's protocol be lost, each with
        its connection: done, and nobody was told."""
        self._to_lose = number

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries one connection, to its end."""
        call = _Call(asyncio.current_task(), [writer])
        self._calls.add(call)
        try:
            await self._open["there"].wait()
            answers, far = await asyncio.open_connection(*self.target)
            call.writers.append(far)
            await asyncio.gather(
                self._carry(call, "there", reader, far), self._carry(call, "back", answers, writer)
            )
        except OSError:
            call.reset()  # nobody is there
        finally:
            await call.close()
            self._calls.discard(call)

    async def end(self) -> None:
        """Resets every connection, and returns when none is left."""
        self._pass()
        self._cut()
        await asyncio.gather(*(call.task for call in self._calls if call.task is not None))

    async def _carry(
        self, call: "_Call", way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if way == "there" and self._to_lose and b"COMMIT\0" in data:
                    self._to_lose -= 1
                    call.forgets = True
                elif way == "back" and call.forgets:
                    self.lost += 1
                    call.reset()
                    return
                await self._open[way].wait()
                writer.write(data)
                await writer.drain()
            await self._open[way].wait()
            writer.write_eof()
            return
        call.reset()

    def _hold(self, ways: tuple[Way, ...]) -> None:
        for way in ways:
            self._open[way].clear()

    def _pass(self) -> None:
        for event in self._open.values():
            event.set()

    def _cut(self) -> None:
        for call in self._calls:
            call.reset()

    def _do(self, work: Callable[[], None]) -> None:
        done: Future[None] = Future()

        def do() -> None:
            work()
            done.set_result(None)

        self._loop.call_soon_threadsafe(do)
        done.result()


@dataclass(eq=False)
class _Call:
    """A connection, on both sides."""

    task: "asyncio.Task[None] | None"
    writers: list[asyncio.StreamWriter]
    forgets: bool = False

    def reset(self) -> None:
        for writer in self.writers:
            if not writer.transport.is_closing():
                own = writer.get_extra_info("socket")
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()

    async def close(self) -> None:
        for writer in self.writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextmanager
def line(host: str, port: int) -> Iterator[Line]:
    """A line to `host:port` for the block, on a free port."""
    ready: Future[tuple[Line, Callable[[], Any]]] = Future()
    thread = Thread(target=lambda: asyncio.run(_live((host, port), ready)), daemon=True)
    thread.start()
    laid, end = ready.result()
    try:
        yield laid
    finally:
        end()
        thread.join()


async def _live(target: tuple[str, int], ready: "Future[tuple[Line, Callable[[], Any]]]") -> None:
    ended = asyncio.Event()
    laid = Line(target)
    server = await asyncio.start_server(laid.serve, "127.0.0.1", 0)
    laid.port = server.sockets[0].getsockname()[1]
    ready.set_result((laid, partial(asyncio.get_running_loop().call_soon_threadsafe, ended.set)))
    await ended.wait()
    server.close()
    await laid.end()
