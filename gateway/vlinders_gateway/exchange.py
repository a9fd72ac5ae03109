"""One HTTP request at the edge, and its answer: what the edge and all that answer share."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Protocol

import grpc
import msgspec

from vlinders.api.v1.caller_pb2 import Caller
from vlinders_gateway import bodies
from vlinders_gateway.dialects import Dialect, Meta
from vlinders_gateway.failures import Refusal, refusal_of
from vlinders_gateway.operations import Operation
from vlinders_kit.errors import AppError, Failure
from vlinders_kit.ids import new_id
from vlinders_kit.tracing import Span

JSON = b"application/json"
EVENTS = b"text/event-stream"

Header = tuple[bytes, bytes]
Scope = dict[str, Any]

encode = msgspec.json.Encoder().encode


class Receive(Protocol):
    async def __call__(self) -> dict[str, Any]: ...


class Send(Protocol):
    async def __call__(self, message: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Quota:
    """What the client's limit says after this request."""

    limit: int
    remaining: int
    reset: int
    """Unix seconds at which all of it is there again, if nothing more is asked."""

    wait: int = 0
    """Seconds until another try makes sense, for a request that is refused; 0: it is admitted."""

    def headers(self) -> list[Header]:
        return [
            (b"x-ratelimit-limit", b"%d" % self.limit),
            (b"x-ratelimit-remaining", b"%d" % self.remaining),
            (b"x-ratelimit-reset", b"%d" % self.reset),
        ]


def request_id() -> str:
    return new_id("req", random=_chance)


class Exchange:
    """What is known of one request, and how its answers read.

    `hot.HotExchange` answers on the connection itself; `AsgiExchange` through a framework.
    """

    __slots__ = (
        "address",
        "authorization",
        "began",
        "bodies",
        "caller",
        "content_length",
        "dialect",
        "id",
        "left",
        "mount",
        "operation",
        "origin",
        "quota",
        "scope",
        "secure",
        "span",
        "status",
        "traceparent",
    )

    def __init__(self, scope: Scope, dialect: Dialect, limits: bodies.Limits) -> None:
        self.scope = scope
        self.dialect = dialect
        self.mount = ""
        """What stands before the dialect's own paths in the address that the client knows."""
        self.secure = False
        """The client came by https, as far as trusted proxies tell it."""
        self.bodies = limits
        self.id = request_id()
        self.began = time.perf_counter()
        self.address = ""
        """The client's, as far as trusted proxies tell it."""
        self.authorization: bytes | None = None
        self.content_length: int | None = None
        self.origin: bytes | None = None
        """The Origin that may read the answer, by CORS."""
        self.traceparent = ""
        """W3C trace context that calls made for this request continue; empty: not kept."""
        self.span: Span | None = None
        """Of the request, where its trace is kept."""
        self.operation: Operation | None = None
        self.caller: Caller | None = None
        self.quota: Quota | None = None
        self.status = 0
        """HTTP status of the answer; 0 until it begins."""
        self.left = False
        """The client has left."""

    def headers(self) -> list[Header]:
        """What every answer to this request carries."""
        found = [(b"x-request-id", self.id.encode())]
        if self.quota is not None:
            found += self.quota.headers()
        if self.origin is not None:
            found += [
                (b"access-control-allow-origin", self.origin),
                (b"access-control-expose-headers", _EXPOSED),
                (b"vary", b"Origin"),
            ]
        return found

    def told(
        self, error: AppError | grpc.aio.AioRpcError | Failure
    ) -> tuple[int, list[Header], bytes]:
        """Status, headers and body of the answer to a failure."""
        refusal = self.refusal(error)
        status, envelope = self.dialect.failure(refusal, self.meta())
        body = encode(envelope)
        headers: list[Header] = [
            (b"content-type", JSON),
            (b"content-length", b"%d" % len(body)),
        ]
        if refusal.retry_after is not None:
            headers.append((b"retry-after", b"%d" % refusal.retry_after))
        if refusal.http == 402:
            headers.append((b"x-should-retry", b"false"))  # what OpenAI's clients go by
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if refusal.allow:
            headers.append((b"allow", refusal.allow.encode()))
        return status, headers, body

    def refusal(self, error: AppError | grpc.aio.AioRpcError | Failure) -> Refusal:
        """A failure, with its fields as this request's dialect spells and words them."""
        refusal = refusal_of(error)
        if self.operation is None or not refusal.violations:
            return refusal
        return replace(refusal, violations=self.dialect.told(self.operation, refusal))

    def event(self, error: AppError | grpc.aio.AioRpcError | Failure) -> bytes:
        """What ends a stream that fails after it began, as a server-sent event."""
        return b"data: " + encode(self.dialect.event(self.refusal(error))) + b"\n\n"

    def meta(self) -> Meta:
        name = self.operation.name if self.operation is not None else ""
        return Meta(self.id, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), name)

    def seconds(self) -> float:
        """Since the request began."""
        return time.perf_counter() - self.began


class AsgiExchange(Exchange):
    """An exchange that is answered through ASGI.

        body = await exchange.body()                     # whole, within size, time and depth
        await exchange.answer(200, some_bytes)

    Raise an AppError, or an AioRpcError as it came, before that: the edge answers it in the
    dialect. `X-Request-Id`, `X-RateLimit-*` (once `quota` is set) and CORS are added by themselves.
    """

    __slots__ = ("_receive", "_send", "failed")

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, dialect: Dialect, limits: bodies.Limits
    ) -> None:
        super().__init__(scope, dialect, limits)
        self.failed: Exception | None = None
        """What went wrong where it could not be raised."""
        self._receive = receive
        self._send = send

    async def receive(self) -> dict[str, Any]:
        """ASGI's `receive`."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.left = True
        return message

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI's `send`; the head of the answer gets the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self.headers()]
        await self._send(message)

    async def body(self) -> bytes:
        """The whole body; raises BodyTooLarge, RequestTimeout, JsonTooDeep, or ClientGone."""
        return await bodies.read(self)

    async def answer(self, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
        """The whole answer, as JSON; an empty one has no type. It is kept by nobody in between."""
        kind = [(b"content-type", JSON)] if body else []
        always = [(b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        await self.send_whole(status, [*kind, *always, *headers], body)

    async def refuse(self, error: AppError | grpc.aio.AioRpcError | Failure) -> None:
        """Answers with a failure, in the dialect's words."""
        await self.send_whole(*self.told(error))

    async def send_whole(self, status: int, headers: list[Header], body: bytes) -> None:
        """The answer in one go."""
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})


_chance = Random().randbytes
"""For ids of requests: they open nothing, so they need not be hard to guess, only different."""

_EXPOSED = b"X-Request-Id, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After"
