"""Load: calls of one user, each on a connection of its own, and what its client knows of each."""

import asyncio
import itertools
import json
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from types import TracebackType
from typing import Any, Literal, Self
from uuid import uuid4

from tests.chaos.stack import NUMBERED, Chaos
from tests.platform import User, eventually

Outcome = Literal["ok", "failed", "unknown"]
"""The whole answer came; it was refused or broke off with words; nobody can say."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that ends a connection by RST."""
_TOKEN = re.compile(rb'"content":"(\d+) "')
_SPREAD = 64
_FILLER = "x" * 1_024
"""Makes bodies longer than their prompts are said to be: a token is a byte or more."""


@dataclass
class Operation:
    """One call, as its client saw it. `name` is what the engine's file of it is called.

    The prompt of each of a user's operations is told to be of another length, `prompt` of which
    `cached` were in the cache: by the two its record is known even where nobody heard its id.
    """

    number: int
    model: str
    _: KW_ONLY
    stream: bool
    name: str = field(default_factory=lambda: uuid4().hex)
    request_id: str = ""
    """Empty where no head of an answer came."""
    invoked: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    """When the last of it was heard, or its client left."""
    outcome: Outcome = "unknown"
    status: int = 0
    seen: int = 0
    """Tokens that came."""
    said: str = ""
    """The error, where one was told."""
    left: bool = False
    """Its client left on purpose."""

    @property
    def cached(self) -> int:
        return self.number // _SPREAD

    @property
    def prompt(self) -> int:
        return self.cached + 1 + self.number % _SPREAD

    def body(self, **over: Any) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": _FILLER}],
            "stream": self.stream,
            "user": self.name,
            "prompt_tokens": self.prompt,
            "cached_tokens": self.cached,
            "counts": "continuous",
            **over,
        }


class Call:
    """An operation under way, on a socket that its client may treat as badly as it likes."""

    def __init__(
        self, operation: Operation, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.operation = operation
        self.headers: dict[str, str] = {}
        self._reader = reader
        self._writer = writer
        self._rest = b""

    @classmethod
    async def open(
        cls,
        url: str,
        key: str,
        operation: Operation,
        *,
        local_addr: tuple[str, int] | None = None,
        **over: Any,
    ) -> Self:
        """Sends the request to the stack at `url`, from `local_addr` where that is given."""
        name, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(name, int(port), local_addr=local_addr)
        body = json.dumps(operation.body(**over)).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: %b\r\nauthorization: Bearer %b\r\n"
            b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (name.encode(), key.encode(), len(body), body)
        )
        return cls(operation, reader, writer)

    @property
    def socket(self) -> socket.socket:
        own: socket.socket = self._writer.get_extra_info("socket")
        return own

    async def head(self) -> None:
        """Takes in status and headers."""
        text = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = text.rstrip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}
        self.operation.status = int(status.split()[1])
        self.operation.request_id = self.headers.get("x-request-id", "")

    async def data(self) -> AsyncIterator[bytes]:
        """The body as it comes, its tokens counted. Raises as broken connections do."""
        operation = self.operation
        async for piece in self._pieces():
            if operation.stream:
                # A token's event may come in two pieces: what is not whole waits for the rest.
                events, _, self._rest = (self._rest + piece).rpartition(b"\n\n")
                operation.seen += len(_TOKEN.findall(events))
            yield piece

    async def whole(self) -> None:
        """Reads to the end, and says how it ended."""
        operation = self.operation
        try:
            await self.head()
            body = b"".join([piece async for piece in self.data()])
            _judge(operation, body)
        except (OSError, asyncio.IncompleteReadError):
            operation.outcome = "unknown"
        finally:
            operation.ended = time.monotonic()
            self.close()

    def close(self) -> None:
        """Leaves by FIN."""
        self._writer.close()

    def reset(self) -> None:
        """Leaves by RST."""
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._writer.transport.abort()

    async def _pieces(self) -> AsyncIterator[bytes]:
        if (length := self.headers.get("content-length")) is not None:
            yield await self._reader.readexactly(int(length))
            return
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield await self._reader.readexactly(size)
            await self._reader.readexactly(2)


class Load:
    """Calls of one user, in the block, by so many callers that stream and so many that do not.

        async with Load(chaos, user, streams=20, json=5, max_tokens=100, rate=50) as load:
            kill(...)
        await settle(chaos, user)
        verdict = await judge(chaos, user, load.operations)

    At the block's end no new calls begin, and those that run come to their end. Further keywords
    go into each body: what the engine is to do.
    """

    def __init__(
        self,
        chaos: Chaos,
        user: User,
        *,
        streams: int = 0,
        json: int = 0,
        model: str = NUMBERED,
        numbers: Iterator[int] | None = None,
        **body: Any,
    ) -> None:
        self.operations: list[Operation] = []
        self._chaos = chaos
        self._user = user
        self._callers = [True] * streams + [False] * json
        self._model = model
        self._numbers = numbers if numbers is not None else itertools.count()
        self._body = {"max_tokens": 40, "rate": 40, **body}
        self._stopped = asyncio.Event()
        self._key = ""
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._key = (await self._user.key())["key"]
        self._tasks = [asyncio.create_task(self._call_on(stream)) for stream in self._callers]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        if error is not None:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=error is not None)

    @property
    def running(self) -> list[Operation]:
        """Those that have not ended, as they are now."""
        return [each for each in self.operations if not each.ended]

    async def until(
        self, wanted: Callable[[Operation], bool], *, times: int = 1, seconds: float = 60
    ) -> None:
        """Returns when so many operations are as `wanted`. Raises TimeoutError."""

        async def enough() -> bool:
            return sum(map(wanted, self.operations)) >= times

        await eventually(enough, seconds)

    async def _call_on(self, stream: bool) -> None:
        url = self._chaos.stack.url
        while not self._stopped.is_set():
            operation = Operation(next(self._numbers), self._model, stream=stream)
            self.operations.append(operation)
            try:
                call = await Call.open(url, self._key, operation, **self._body)
            except OSError:  # nothing was sent
                operation.outcome, operation.said = "failed", "not connected"
                operation.ended = time.monotonic()
                await asyncio.sleep(0.05)
                continue
            await call.whole()
            if operation.outcome == "failed":
                await asyncio.sleep(0.05)  # who is refused does not ask at once again


def _judge(operation: Operation, body: bytes) -> None:
    if operation.status != 200:
        operation.outcome = "failed"
        operation.said = body.decode(errors="replace")
    elif not operation.stream:
        operation.seen = json.loads(body)["usage"]["completion_tokens"]
        operation.outcome = "ok"
    elif body.endswith(b"data: [DONE]\n\n"):
        operation.outcome = "ok"
    else:
        operation.outcome = "failed"
        operation.said = body.rpartition(b"data: ")[2].decode(errors="replace")
