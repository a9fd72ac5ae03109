"""An upstream provider for journeys: a real server that speaks OpenAI's protocol, by a script."""

import asyncio
import json
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Event, Thread
from typing import Any

from aiohttp import web

from vlinders_kit.tls import Tls


@dataclass
class Script:
    """What becomes of the requests for a model."""

    words: Sequence[str] = ("one", " two", " three", " four", " five")
    """The answer, a token each."""
    usage: dict[str, Any] | None = None
    """Told as it is; without it, the true one."""
    tells_usage: bool = True
    status: int = 200
    error: Any = None
    """With a status that is not 200: the body."""
    breaks_after: int | None = None
    """Words after which the connection is cut; 0: before the status."""
    fails_after: int | None = None
    """Words after which an error event comes, as some providers send."""
    waits_after: int | None = None
    """Words after which nothing comes until the client has left."""


@dataclass
class Asked:
    """A request as it came, and how far its answer went."""

    headers: dict[str, str]
    body: dict[str, Any]
    said: int = 0
    ended: Event = field(default_factory=Event)


@dataclass
class Upstream:
    """Models are known by the names that the provider has for them."""

    base_url: str
    api_key: str
    scripts: defaultdict[str, Script] = field(default_factory=lambda: defaultdict(Script))
    asked: defaultdict[str, list[Asked]] = field(default_factory=lambda: defaultdict(list))

    def plays(self, model: str, **script: Any) -> None:
        self.scripts[model] = Script(**script)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked, script = await self._begin(request)
        try:
            if script.breaks_after == 0:
                _cut(request)
            if script.status != 200:
                return web.json_response(script.error, status=script.status)
            if asked.body.get("stream"):
                return await _stream(request, asked, script)
            return await _whole(request, asked, script)
        finally:
            asked.ended.set()

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        asked, script = await self._begin(request)
        texts = asked.body["input"]
        rows = [
            {"object": "embedding", "index": index, "embedding": [0.5, -0.25]}
            for index, _ in enumerate([texts] if isinstance(texts, str) else texts)
        ]
        usage = script.usage or {"prompt_tokens": 3, "total_tokens": 3}
        asked.ended.set()
        return web.json_response({"object": "list", "data": rows, "model": "x", "usage": usage})

    async def _begin(self, request: web.Request) -> tuple[Asked, Script]:
        asked = Asked(dict(request.headers), await request.json())
        model = asked.body["model"]
        self.asked[model].append(asked)
        return asked, self.scripts[model]


@contextmanager
def upstream(api_key: str, tls: Tls | None = None) -> Iterator[Upstream]:
    """A provider on a free port that lets in who shows `api_key`; with `tls`, as `localhost`.

    It has a thread and an event loop of its own, as it would have a process: no test's end is its.
    """
    running = Upstream("", api_key)
    ready: Future[Callable[[], Any]] = Future()
    thread = Thread(target=lambda: asyncio.run(_live(running, ready, tls)))
    thread.start()
    end = ready.result()
    try:
        yield running
    finally:
        end()
        thread.join()


async def _live(running: Upstream, ready: "Future[Callable[[], Any]]", tls: Tls | None) -> None:
    """Serves until what `ready` gets is called, from any thread."""
    ended = asyncio.Event()
    site = await _serve(running, tls)
    ready.set_result(partial(asyncio.get_running_loop().call_soon_threadsafe, ended.set))
    await ended.wait()
    await site.cleanup()


async def _serve(running: Upstream, tls: Tls | None) -> web.AppRunner:
    @web.middleware
    async def locked(request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {running.api_key}":
            error = {"message": f"Incorrect API key: {running.api_key}", "code": "invalid_api_key"}
            return web.json_response({"error": error}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    app = web.Application(middlewares=[locked], client_max_size=2**24)
    app.router.add_post("/v1/chat/completions", running.chat)
    app.router.add_post("/v1/embeddings", running.embeddings)
    app.router.add_get("/v1/models", _models)
    site = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await site.setup()
    own = socket.create_server(("127.0.0.1", 0))
    # Or its kernel takes megabytes of what nobody reads.
    own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    shown = None if tls is None else _shown(tls)
    await web.SockSite(site, own, ssl_context=shown).start()
    host, port = site.addresses[0][:2]
    scheme, name = ("http", host) if tls is None else ("https", "localhost")
    running.base_url = f"{scheme}://{name}:{port}/v1"
    return site


def _shown(tls: Tls) -> ssl.SSLContext:
    """As between parts, but that a provider asks nobody for a certificate, and speaks no HTTP/2."""
    context = tls.for_listener()
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _stream(request: web.Request, asked: Asked, script: Script) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await _say(response, {"role": "assistant", "content": ""})
    for number, word in enumerate(script.words):
        if number == script.breaks_after:
            _cut(request)
            return response
        if number == script.fails_after:
            await response.write(b'data: {"error": {"message": "secret of the provider"}}\n\n')
            return response
        if number == script.waits_after:
            await asyncio.Event().wait()  # until the client leaves, which cancels this
        asked.said += 1  # before: one whose writing is cut off may have arrived
        await _say(response, {"content": word})
    await _say(response, {}, finish_reason="stop")
    if script.tells_usage and asked.body["stream_options"]["include_usage"]:
        chunk = {"choices": [], "usage": _usage(script)}
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


async def _models(_request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": []})


async def _whole(request: web.Request, asked: Asked, script: Script) -> web.StreamResponse:
    if script.breaks_after is not None:
        _cut(request)
    if script.waits_after is not None:
        await asyncio.Event().wait()
    asked.said = len(script.words)
    message = {"role": "assistant", "content": "".join(script.words)}
    answer: dict[str, Any] = {
        "id": "chatcmpl-upstream",
        "object": "chat.completion",
        "created": 1,
        "model": asked.body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    if script.tells_usage:
        answer["usage"] = _usage(script)
    return web.json_response(answer)


async def _say(
    response: web.StreamResponse, delta: dict[str, Any], finish_reason: str | None = None
) -> None:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {"id": "chatcmpl-upstream", "object": "chat.completion.chunk", "choices": [choice]}
    await response.write(f"data: {json.dumps(chunk)}\n\n".encode())


def _usage(script: Script) -> dict[str, Any]:
    said = len(script.words)
    return script.usage or {
        "prompt_tokens": 7,
        "completion_tokens": said,
        "total_tokens": 7 + said,
    }


def _cut(request: web.Request) -> None:
    """Ends the connection in the middle, as a provider that dies does."""
    if request.transport is not None:
        request.transport.abort()
