"""The outermost of the gateway: what every request passes, and every answer carries.

Whatever goes wrong further in becomes an answer here, in the dialect of the address that was asked.
"""

import ipaddress
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import grpc
import httptools

from vlinders_gateway import bodies, mounts
from vlinders_gateway.bodies import ClientGone
from vlinders_gateway.dialects import Dialect
from vlinders_gateway.exchange import AsgiExchange, Exchange, Header, Receive, Scope, Send
from vlinders_gateway.hot import App, Hot
from vlinders_gateway.mounts import EVERYWHERE, Hosts
from vlinders_gateway.operations import Operation
from vlinders_gateway.refusals import (
    ContentEncoded,
    InternalFault,
    MalformedRequest,
    Overloaded,
)
from vlinders_gateway.spans import begin_trace, end_trace
from vlinders_kit import logs, telemetry
from vlinders_kit.errors import AppError
from vlinders_kit.pressure import Pressure

log = logs.get(__name__)

Rest = Callable[[AsgiExchange], Awaitable[None]]
"""The app behind the hot routes."""

_HOST = re.compile(rb"([A-Za-z0-9._\-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_METHODS = b"GET, POST, PUT, PATCH, DELETE, OPTIONS"
_READ = frozenset(
    (
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"host",
        b"origin",
        b"traceparent",
        b"transfer-encoding",
        b"x-forwarded-for",
        b"x-forwarded-proto",
    )
)
"""Headers that the edge goes by; a client's library sends twice as many others."""

CLIENT_LEFT = 499
"""Status that a request is counted under whose client left before its answer began."""


@dataclass(frozen=True)
class Rules:
    """What the edge lets in."""

    origins: Sequence[str] = ()
    """Origins whose pages may read answers; `http://localhost:*` is any port."""

    trusted: Sequence[str] = ()
    """Networks of proxies that are believed about the client's address."""

    hosts: Mapping[str, str] = field(default_factory=dict)
    """Host name → dialect whose own paths stand at its root."""

    https: bool = False
    """Clients come by https, whatever proxies say."""

    most_running: int = 4096
    """Requests at a time; more are refused with 503, as are fewer while the process is late."""

    logged: float = 0.01
    """Share of the requests that get a line in the log. Faults of ours always do."""

    traced: bool = False
    """Whether requests are traced at all."""


@dataclass
class Edge:
    """The ASGI app that the server runs.

    `hot` is filled by `serve_hot` before serving, and never comes here: its connection answers it.
    All other paths go to `rest`.
    """

    rest: Rest
    rules: Rules = field(default_factory=Rules)
    limits: bodies.Limits = field(default_factory=bodies.Limits)
    hot: dict[str, Hot] = field(default_factory=dict)
    running: int = 0

    def __post_init__(self) -> None:
        self._trusted = [ipaddress.ip_network(network) for network in self.rules.trusted]
        self._origins = re.compile("|".join(map(_origin, self.rules.origins)) or "(?!)")
        self._hosts = Hosts(self.rules.hosts) if self.rules.hosts else None
        self._meter = telemetry.HttpMeter("gateway")
        self.pressure = Pressure(self.rules.most_running, lambda: self.running)

    def serve_hot(self, dialect: Dialect, operation: Operation, place: str, app: App) -> None:
        """Has `app` answer the exact `place`, as `POST /v1/embeddings`, at each of its mounts."""
        verb, path = place.split(" ")
        for mount in dialect.mounts:
            self.hot[mount + path] = Hot(app, operation, dialect, verb)

    def hot_at(self, url: bytes, method: bytes, headers: Sequence[Header]) -> Hot | None:
        """The hot route that the head of a request asks for."""
        mount = self._hosts.mount(headers) if self._hosts is not None else ""
        hot = self.hot.get(mount + url.decode("latin-1"))
        if hot is None and (b"%" in url or b"?" in url or not url.startswith(b"/")):
            hot = self.hot.get(mount + _path_in(url))
        return hot if hot is not None and hot.verb == method.decode("latin-1") else None

    def enter(self, exchange: Exchange) -> None:
        """A request has come. Raises what it is refused with; `leave` it in any case."""
        self.running += 1
        self._read_headers(exchange)
        if self.running > self.pressure.most:
            raise Overloaded

    def leave(self, exchange: Exchange) -> None:
        """Its answer has ended, or nobody is there for it."""
        self.running -= 1
        self._note(exchange)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # neither lifespan nor WebSockets are served
        exchange = self._exchange(scope, receive, send)
        try:
            self.enter(exchange)
            if exchange.span is not None:
                exchange.span.enter()
            await self._route(exchange)
        except (AppError, grpc.aio.AioRpcError) as error:
            await self._refuse(exchange, error)
        except ClientGone:
            exchange.status = exchange.status or CLIENT_LEFT
        except Exception as error:
            log.error("request_failed", request_id=exchange.id, exc_info=error)
            await self._refuse(exchange, InternalFault())
        finally:
            self.leave(exchange)

    def _exchange(self, scope: Scope, receive: Receive, send: Send) -> AsgiExchange:
        """The exchange, with its path as if it had come by the mount that its host stands for."""
        mount = self._hosts.mount(scope["headers"]) if self._hosts is not None else ""
        if mount and scope["path"] not in EVERYWHERE:
            scope["path"] = mount + scope["path"]
            scope["raw_path"] = mount.encode() + scope["raw_path"]
        dialect, before = mounts.at(scope["path"])
        exchange = AsgiExchange(scope, receive, send, dialect, self.limits)
        exchange.mount = "" if mount else before
        return exchange

    async def _route(self, exchange: AsgiExchange) -> None:
        if exchange.scope["method"] == "OPTIONS":
            await self._preflight(exchange)
        else:
            await self.rest(exchange)
        if not exchange.status and not exchange.left:
            raise RuntimeError("the request was not answered")

    async def _refuse(self, exchange: AsgiExchange, error: AppError | grpc.aio.AioRpcError) -> None:
        if exchange.status:
            log.error("answer_cut_short", request_id=exchange.id, exc_info=error)
        else:
            await exchange.refuse(error)

    def _read_headers(self, exchange: Exchange) -> None:
        """One pass over the headers, for all that the edge goes by."""
        hosts, forwarded, scheme, trace = 0, b"", b"", b""
        for name, value in exchange.scope["headers"]:
            if name not in _READ:
                continue
            if name == b"host":
                hosts += 1
                if _HOST.fullmatch(value) is None:
                    raise MalformedRequest(what="Host")
            elif name == b"authorization":
                if exchange.authorization is not None:
                    raise MalformedRequest(what="Authorization")
                exchange.authorization = value
            elif name == b"content-length":
                exchange.content_length = int(value)
            elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                raise ContentEncoded
            elif name == b"transfer-encoding" and (
                value.lower() != b"chunked" or exchange.scope["http_version"] == "1.0"
            ):
                raise MalformedRequest(what="Transfer-Encoding")
            elif name == b"x-forwarded-for":
                forwarded = forwarded or value
            elif name == b"x-forwarded-proto":
                scheme = value
            elif name == b"traceparent":
                trace = value
            elif name == b"origin" and self._origins.fullmatch(value.decode("latin-1")):
                exchange.origin = value
        version = exchange.scope["http_version"]
        if version != "1.1" and version != "1.0":
            raise MalformedRequest(what="its version")
        if hosts != 1 and not (hosts == 0 and version == "1.0"):
            raise MalformedRequest(what="Host")
        self._place(exchange, forwarded, scheme, trace)

    def _place(self, exchange: Exchange, forwarded: bytes, scheme: bytes, trace: bytes) -> None:
        """Where the client is, and how it came: the peer, or what a trusted peer says."""
        client = exchange.scope["client"]
        exchange.address = client[0] if client else ""
        trusted = bool(forwarded or scheme or trace) and self._is_trusted(exchange.address)
        exchange.secure = self.rules.https or (trusted and scheme.lower() == b"https")
        if trusted and forwarded:
            named = forwarded.split(b",")[0].strip().decode("latin-1")
            if _address(named) is not None:
                exchange.address = named
        if self.rules.traced:
            begin_trace(exchange, trace, trusted=trusted)

    def _is_trusted(self, peer: str) -> bool:
        address = _address(peer)
        return address is not None and any(address in network for network in self._trusted)

    async def _preflight(self, exchange: AsgiExchange) -> None:
        headers: list[Header] = [(b"content-length", b"0")]
        if exchange.origin is not None:
            headers += [
                (b"access-control-allow-methods", _METHODS),
                (b"access-control-allow-headers", b"Authorization, Content-Type"),
                (b"access-control-max-age", b"600"),
            ]
        await exchange.send_whole(204, headers, b"")

    def _note(self, exchange: Exchange) -> None:
        name = exchange.operation.name if exchange.operation is not None else "none"
        status, seconds = exchange.status or CLIENT_LEFT, exchange.seconds()
        self._meter.answered(name, status, seconds)
        if self.rules.traced:
            end_trace(exchange, status, seconds)
        if status == 500 or random.random() < self.rules.logged:
            log.info(
                "request",
                request_id=exchange.id,
                method=exchange.scope["method"],
                operation=name,
                dialect=exchange.dialect.name,
                status=status,
                seconds=round(seconds, 4),
                account_id=exchange.caller.account_id if exchange.caller is not None else None,
                address=exchange.address,
            )


def path_of(raw: bytes) -> str:
    """The path by which a request is routed: decoded, but for what would change its segments."""
    return "/".join(
        unquote(segment).replace("%", "%25").replace("/", "%2F")
        for segment in raw.decode("latin-1").split("/")
    )


def _path_in(url: bytes) -> str:
    """The path that a request line names, as `path_of`; empty where it names none."""
    try:
        return path_of(httptools.parse_url(url).path or b"")
    except httptools.HttpParserError:
        return ""


def _origin(rule: str) -> str:
    if rule.endswith(":*"):
        return re.escape(rule[:-2]) + "(:[0-9]{1,5})?"
    return re.escape(rule)


def _address(text: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
