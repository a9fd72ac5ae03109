"""Generations: requests on an engine, what they have produced, and how each of them ends."""

import asyncio
import contextlib
import re
from collections.abc import Awaitable
from enum import StrEnum
from typing import Protocol

import msgspec
from prometheus_client import Counter

from vlinders_kit import logs
from vlinders_worker import sse
from vlinders_worker.engines.upstream import Upstream
from vlinders_worker.errors import EngineFailed, EngineRefused
from vlinders_worker.meters import Body, Meter
from vlinders_worker.usage import Usage, UsageTold

HEAD_SECONDS = 0.5
"""How long an engine that was asked and is not wanted any more may take to begin its answer: what
it has done by then is known from nowhere else."""

STOP_SECONDS = 0.9
"""How long an engine may take to stop and hand over what it wrote, before it is cut off."""

_ENDED = Counter("vlinders_worker_requests_total", "Requests that ended.", ["slot", "outcome"])

log = logs.get(__name__)


class Outcome(StrEnum):
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    FAILED = "failed"


class Sink(Protocol):
    """Where an answer goes: a stream, or one piece of JSON. Writing raises ConnectionError."""

    async def write(self, events: list[bytes]) -> None: ...
    async def finish(self, usage: Usage) -> None: ...
    async def fail(self, usage: Usage, failure: EngineFailed) -> None: ...
    async def refuse(self, refusal: EngineRefused) -> None: ...


class Generation:
    """One request. `usage` says at each moment what the engine has produced for it."""

    def __init__(self, request_id: str, slot_id: str, ticket: str, meter: Meter) -> None:
        self.request_id = request_id
        self.slot_id = slot_id
        self.ticket = ticket
        self.meter = meter
        self.outcome = Outcome.RUNNING
        self._cancelled = False
        self._cut: str | None = None
        self._scope: asyncio.Timeout | None = None
        self._patience = 0.0
        """Seconds from a cancel to the end of the scope."""
        self._events = sse.Events()
        self._name = _Name(b"")

    @property
    def usage(self) -> Usage:
        return self.meter.usage

    @property
    def came_to_nothing(self) -> bool:
        """It failed before the first token: it may be tried again."""
        return self.outcome is Outcome.FAILED and not self.usage.completion_tokens

    def cancel(self) -> None:
        """Stops the engine; what it wrote until it stopped still counts. May be called twice."""
        if self._scope is not None and not self._cancelled:
            # An expired scope, rather than a cancelled task: the task has to live on and drain.
            self._scope.reschedule(asyncio.get_running_loop().time() + self._patience)
        self._cancelled = True

    def cut(self, why: str) -> None:
        """Stops it although somebody waits for the rest, who is told why."""
        self._cut = why
        self.cancel()

    async def stream(self, upstream: Upstream, path: str, body: Body, sink: Sink) -> None:
        """Has the engine answer into `sink`, event by event. Raises nothing."""
        self._name = _Name(bytes(body.get("model", b"")))
        upstream.rename(body)
        self.meter.ask(body)
        await self._end_well(self._stream(upstream, path, body, sink), upstream, sink)

    async def whole(self, upstream: Upstream, path: str, body: Body, sink: Sink) -> None:
        """Has the engine answer into `sink` in one piece, as for embeddings. Raises nothing."""
        self._name = _Name(bytes(body.get("model", b"")))
        upstream.rename(body)
        await self._end_well(self._whole(upstream, path, body, sink), upstream, sink)

    async def _end_well(self, work: Awaitable[None], upstream: Upstream, sink: Sink) -> None:
        try:
            await work
        except EngineRefused as refusal:
            self.outcome = Outcome.REFUSED
            await _within(sink.refuse(refusal))
        except EngineFailed as failure:
            await self._fail(failure, sink)
        except Exception as error:  # an engine may send anything, and each answer has an end
            log.error("answer_not_understood", request_id=self.request_id, exc_info=error)
            why = "its answer is not understood"
            await self._fail(EngineFailed(slot_id=self.slot_id, why=why), sink)
        finally:
            upstream.close()
            _ENDED.labels(self.slot_id, self.outcome).inc()
            if self.outcome is not Outcome.REFUSED:
                self.usage.count(self.slot_id)

    async def _fail(self, failure: EngineFailed, sink: Sink) -> None:
        self.outcome = Outcome.FAILED
        log.warning("engine_failed", request_id=self.request_id, why=failure.why)
        await _within(sink.fail(self.usage, failure))

    async def _stream(self, upstream: Upstream, path: str, body: Body, sink: Sink) -> None:
        if await self._relay(upstream, path, body, sink):
            self.outcome = Outcome.FINISHED
        else:
            await self._drain(upstream)
            if self._cut is not None:
                raise EngineFailed(slot_id=self.slot_id, why=self._cut)
            self.outcome = Outcome.CANCELLED
        await _within(sink.finish(self.usage))

    async def _relay(self, upstream: Upstream, path: str, body: Body, sink: Sink) -> bool:
        """Whether the engine came to its end; False when nobody wants the rest of it."""
        if self._cancelled:
            return False
        try:
            self._patience = HEAD_SECONDS
            async with asyncio.timeout(None) as self._scope:
                await upstream.ask(path, body)
            self._patience = 0.0
            async with asyncio.timeout(0 if self._cancelled else None) as self._scope:
                async for data in upstream.data():
                    passed, done = self._read(data)
                    upstream.begun = self.usage.completion_tokens > 0
                    if passed:
                        await sink.write(passed)
                    if done:
                        return True
        except (TimeoutError, ConnectionError):
            # The scope has expired, or the sink's socket is closed: what breaks at the engine's
            # side is an EngineFailed.
            return False
        finally:
            self._scope = None
        raise EngineFailed(slot_id=self.slot_id, why="it ended in the middle of an answer")

    async def _drain(self, upstream: Upstream) -> None:
        """Tells the engine to stop, and counts what it wrote until it did."""
        with contextlib.suppress(EngineFailed, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                upstream.stop()
                async for data in upstream.data():
                    _, done = self._read(data)
                    if done:
                        return

    def _read(self, data: bytes) -> tuple[list[bytes], bool]:
        """The events to pass on, and whether the last one has come."""
        passed: list[bytes] = []
        for event in self._events.feed(data):
            if event == sse.DONE:
                return passed, True
            if event.startswith(b'{"error"'):
                raise EngineFailed(slot_id=self.slot_id, why=event.decode(errors="replace")[:500])
            if (clean := self.meter.read(event)) is not None:
                passed.append(self._name.put(clean))
        return passed, False

    async def _whole(self, upstream: Upstream, path: str, body: Body, sink: Sink) -> None:
        try:
            async with asyncio.timeout(0 if self._cancelled else None) as self._scope:
                await upstream.ask(path, body)
                answer = await upstream.whole()
        except TimeoutError:
            self.outcome = Outcome.CANCELLED
            return
        finally:
            self._scope = None
        _read_usage(answer).usage.put(self.usage)
        self.outcome = Outcome.FINISHED
        with contextlib.suppress(ConnectionError):
            await sink.write([self._name.put(answer)])


class _Name:
    """Puts the model's name as the client said it in place of the engine's own."""

    def __init__(self, asked: bytes) -> None:
        self._asked = asked
        self._found: bytes | None = None

    def put(self, event: bytes) -> bytes:
        if self._found is None and (match := _MODEL.search(event)):
            self._found = match[0]
        if not self._found or not self._asked:
            return event
        return event.replace(self._found, b'"model":' + self._asked, 1)


class _Answer(msgspec.Struct):
    usage: UsageTold = msgspec.field(default_factory=UsageTold)


_MODEL = re.compile(rb'"model":\s*"(?:[^"\\]|\\.)*"')
_read_usage = msgspec.json.Decoder(_Answer).decode


async def _within(last_words: Awaitable[None]) -> None:
    """The end of an answer, for a reader who may be gone or not reading."""
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await last_words
