"""The agent's HTTP side: inference shows a ticket, and gets what an engine makes of its request."""

import asyncio
import contextlib
import ipaddress
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import msgspec
from aiohttp import web

from vlinders_kit import logs
from vlinders_kit.errors import AppError
from vlinders_kit.pressure import Pressure
from vlinders_worker import spans, tickets
from vlinders_worker.engines.engine import Engine
from vlinders_worker.errors import (
    BodyNotValid,
    NotServing,
    RequestNotFound,
    SlotNotReady,
)
from vlinders_worker.generations import Generation
from vlinders_worker.meters import Body
from vlinders_worker.requests import Requests
from vlinders_worker.sinks import ChatSink, StreamSink, WholeSink, failed
from vlinders_worker.tickets import Gate

BODY_LIMIT = 12 * 1024 * 1024
"""Above the 10 MB that the edge takes."""

REQUEST_ID = "x-request-id"

log = logs.get(__name__)

_read_body = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class AgentServer:
    """`async with` it: at the end it waits for what runs. `closed` says why nothing new starts."""

    def __init__(
        self,
        gate: Gate,
        engines: Mapping[str, Engine],
        requests: Requests,
        pressure: Pressure,
        *,
        silence_seconds: float,
        show_requests: bool,
    ) -> None:
        self.closed: str | None = None
        self._gate = gate
        self._engines = engines
        self._requests = requests
        self._pressure = pressure
        self._silence_seconds = silence_seconds
        self._show_requests = show_requests
        self._group = asyncio.TaskGroup()

    @property
    def ready(self) -> bool:
        """Whether one engine is, and requests are taken."""
        return self.closed is None and any(each.slot.ready for each in self._engines.values())

    async def __aenter__(self) -> "AgentServer":
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._group.__aexit__(*error)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[_told])
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_post("/v1/requests/{request_id}/cancel", self._cancel)
        app.router.add_get("/v1/requests/{request_id}", self._show)
        return app

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        engine, generation = self._admitted(request)
        body = await _body(request)
        self._requests.begin(generation)
        streamed = bytes(body.get("stream", b"false")) == b"true"
        sink = StreamSink(request, generation.request_id) if streamed else ChatSink()
        upstream = engine.upstream(silence_seconds=self._silence_seconds)
        with spans.serving(request, generation):
            work = generation.stream(upstream, "/chat/completions", body, sink)
            await self._run(generation, work)
        return sink.response

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        engine, generation = self._admitted(request)
        body, sink = await _body(request), WholeSink()
        self._requests.begin(generation)
        upstream = engine.upstream(silence_seconds=self._silence_seconds)
        with spans.serving(request, generation):
            await self._run(generation, generation.whole(upstream, "/embeddings", body, sink))
        return sink.response

    def _admitted(self, request: web.Request) -> tuple[Engine, Generation]:
        """Who may start what, before a byte of the body is read."""
        ticket, request_id = request.headers.get(tickets.HEADER), request.headers.get(REQUEST_ID)
        slot_id = self._gate.admit(ticket, request_id)
        if self.closed is not None:
            raise NotServing(why=self.closed)
        if len(self._requests) >= self._pressure.most:
            raise NotServing(why="it has as many as it keeps up with")
        engine = self._engines.get(slot_id)
        if engine is None or not engine.slot.ready:
            raise SlotNotReady(slot_id=slot_id)
        return engine, Generation(request_id or "", slot_id, ticket or "", engine.slot.meter())

    async def _run(self, generation: Generation, work: Coroutine[Any, Any, None]) -> None:
        """Lets a generation live on when its client leaves: it must stop its engine and count."""
        task = self._group.create_task(self._to_its_end(generation, work))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            generation.cancel()
            raise

    async def _to_its_end(self, generation: Generation, work: Awaitable[None]) -> None:
        try:
            await work
        finally:
            self._requests.end(generation)

    async def _cancel(self, request: web.Request) -> web.Response:
        """Only whoever holds the ticket that started a request can stop it, however old."""
        ticket = request.headers.get(tickets.HEADER, "")
        self._requests.cancel(request.match_info["request_id"], ticket)
        return web.Response(status=204)

    async def _show(self, request: web.Request) -> web.Response:
        """What an engine produced for a request: the other side of the books, for tests."""
        request_id = request.match_info["request_id"]
        if not self._show_requests or not _local(request.remote):
            raise RequestNotFound(request_id=request_id)
        generation = self._requests.find(request_id)
        told = {
            "request_id": request_id,
            "slot_id": generation.slot_id,
            "outcome": generation.outcome,
            "usage": generation.usage.as_json(),
        }
        return web.Response(body=msgspec.json.encode(told), content_type="application/json")


@web.middleware
async def _told(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except AppError as error:
        return failed(error)


async def _body(request: web.Request) -> Body:
    try:
        return _read_body(await request.read())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BodyNotValid(why=str(error)) from None


def _local(remote: str | None) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(remote or "").is_loopback
    return False
