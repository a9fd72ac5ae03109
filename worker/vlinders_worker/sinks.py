"""Sinks: how an answer leaves the agent, as a stream of events or as one piece of JSON."""

import socket
import time
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from vlinders_kit.completions import Assembly
from vlinders_kit.errors import AppError, failure_of
from vlinders_worker import sse
from vlinders_worker.errors import EngineFailed, EngineRefused
from vlinders_worker.usage import Usage

STATUSES = {
    "INVALID_ARGUMENT": HTTPStatus.BAD_REQUEST,
    "UNAUTHENTICATED": HTTPStatus.UNAUTHORIZED,
    "PERMISSION_DENIED": HTTPStatus.FORBIDDEN,
    "NOT_FOUND": HTTPStatus.NOT_FOUND,
    "ALREADY_EXISTS": HTTPStatus.CONFLICT,
    "ABORTED": HTTPStatus.CONFLICT,
    "UNAVAILABLE": HTTPStatus.SERVICE_UNAVAILABLE,
    "INTERNAL": HTTPStatus.BAD_GATEWAY,
}
"""HTTP status of a failure; what is INTERNAL here is the engine's."""


def error_json(error: AppError) -> dict[str, Any]:
    """In OpenAI's shape: `code` is the reason, as in every part."""
    failure = failure_of(error)
    kind = "invalid_request_error" if failure.status.name != "INTERNAL" else "engine_error"
    return {"error": {"message": failure.message, "type": kind, "code": failure.reason}}


def failed(error: AppError, usage: Usage | None = None) -> web.Response:
    """The answer to a request that brought nothing; with usage where the engine did work."""
    told = error_json(error)
    if usage is not None:
        told["usage"] = usage.as_json()
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after.total_seconds())))
    status = STATUSES.get(error.status.name, HTTPStatus.INTERNAL_SERVER_ERROR)
    return _json(told, status=status, headers=headers)


def refused(refusal: EngineRefused) -> web.Response:
    return web.Response(body=refusal.body, status=refusal.status, content_type=refusal.content_type)


HIGH_WATER = 16 * 1024
"""Bytes that may wait for a slow reader before its engine is held up; and as many in the kernel,
beyond what is under way on the network, or else it takes megabytes."""


class _Head(msgspec.Struct):
    id: str = ""
    created: int | float = 0
    model: str = ""


_read_head = msgspec.json.Decoder(_Head).decode


class StreamSink:
    """Events as they come. Nothing is sent before the first: until then a failure is a status."""

    def __init__(self, request: web.Request, request_id: str) -> None:
        self._request = request
        self._head = _Head(id=f"chatcmpl-{request_id}", created=int(time.time()))
        self._stream: web.StreamResponse | None = None
        self.response: web.StreamResponse = web.Response(status=HTTPStatus.NO_CONTENT)

    async def write(self, events: list[bytes]) -> None:
        if self._stream is None:
            self._head = _read_head(events[0])
        stream = await self._opened()
        await stream.write(b"".join(map(sse.event, events)))
        await self._request.writer.drain()  # by itself a stream waits after 64 KB, not before

    async def finish(self, usage: Usage) -> None:
        stream = await self._opened()
        await stream.write(self._last(usage) + sse.event(sse.DONE))

    async def fail(self, usage: Usage, failure: EngineFailed) -> None:
        """Never a clean end: usage so far, then the error, and no `[DONE]`."""
        if self._stream is None:
            self.response = failed(failure, usage)
            return
        told = sse.event(msgspec.json.encode(error_json(failure)))
        await self._stream.write(self._last(usage) + told)

    async def refuse(self, refusal: EngineRefused) -> None:
        self.response = refused(refusal)

    async def _opened(self) -> web.StreamResponse:
        if self._stream is None:
            if (transport := self._request.transport) is not None:
                transport.set_write_buffer_limits(HIGH_WATER)
                own: socket.socket = transport.get_extra_info("socket")
                own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, HIGH_WATER)
            headers = {"content-type": "text/event-stream", "cache-control": "no-store"}
            self._stream = self.response = web.StreamResponse(headers=headers)
            await self._stream.prepare(self._request)
        return self._stream

    def _last(self, usage: Usage) -> bytes:
        chunk: dict[str, object] = {
            "id": self._head.id,
            "object": "chat.completion.chunk",
            "created": self._head.created,
            "model": self._head.model,
            "choices": [],
            "usage": usage.as_json(),
        }
        return sse.event(msgspec.json.encode(chunk))


class ChatSink:
    """A chat in one piece, put together from the events."""

    def __init__(self) -> None:
        self._assembly = Assembly()
        self.response: web.StreamResponse = web.Response(status=HTTPStatus.NO_CONTENT)

    async def write(self, events: list[bytes]) -> None:
        for event in events:
            self._assembly.add(event)

    async def finish(self, usage: Usage) -> None:
        self.response = _json(self._assembly.whole(usage.as_json()))

    async def fail(self, usage: Usage, failure: EngineFailed) -> None:
        self.response = failed(failure, usage)

    async def refuse(self, refusal: EngineRefused) -> None:
        self.response = refused(refusal)


class WholeSink:
    """An answer that the engine gives in one piece, passed on as it is."""

    def __init__(self) -> None:
        self.response: web.StreamResponse = web.Response(status=HTTPStatus.NO_CONTENT)

    async def write(self, events: list[bytes]) -> None:
        self.response = web.Response(body=events[0], content_type="application/json")

    async def finish(self, usage: Usage) -> None:
        """The answer is whole as it was written."""

    async def fail(self, usage: Usage, failure: EngineFailed) -> None:
        self.response = failed(failure, usage)

    async def refuse(self, refusal: EngineRefused) -> None:
        self.response = refused(refusal)


def _json(
    value: dict[str, Any],
    *,
    status: int = HTTPStatus.OK,
    headers: dict[str, str] | None = None,
) -> web.Response:
    body = msgspec.json.encode(value)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")
