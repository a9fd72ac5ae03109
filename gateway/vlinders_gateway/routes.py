"""Operations × dialects → routes: one endpoint for all that goes field by field."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from google.protobuf.message import Message
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.api.v1.options_pb2 import Page
from vlinders_gateway import cookies
from vlinders_gateway.admission import Admission
from vlinders_gateway.besides import Further
from vlinders_gateway.dialects import DIALECTS, Dialect
from vlinders_gateway.dialects.shapes import shaped
from vlinders_gateway.edge import Rest, path_of
from vlinders_gateway.exact import Exact
from vlinders_gateway.exchange import AsgiExchange, Header, encode
from vlinders_gateway.joins import Joined
from vlinders_gateway.operations import Operation
from vlinders_gateway.reading import Asked, Reader
from vlinders_gateway.refusals import MethodNotAllowed, RouteNotFound
from vlinders_gateway.wires import Channels, Wires
from vlinders_kit.callers import Identity
from vlinders_kit.errors import AppError
from vlinders_kit.rpc import on_behalf_of

_EXCHANGE = "vlinders.exchange"
"""Where the scope of a request keeps its exchange."""


def assemble(
    admission: Admission, channels: Channels, identity: Identity, *, deadline: float
) -> FastAPI:
    """The app behind the hot path: every operation that is not piped, in every dialect."""
    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _unrouted(admission)},
    )
    wires = Wires(channels, identity, deadline)
    exact = Exact()
    app.router.routes.append(exact)
    for dialect in DIALECTS:
        for operation, verb, path in dialect.places():
            served: Any = _ServedHot()
            if not operation.piped:
                served = Endpoint(dialect, operation, admission, wires)
            for mount in dialect.mounts:
                if "{" in path:
                    app.add_route(mount + path, served, [verb], include_in_schema=False)
                else:
                    exact.add(verb, mount + path, served)
    return app


def behind(app: ASGIApp) -> Rest:
    """`app` as the edge calls it: what fails in it is raised, not told in a framework's words."""

    async def serve(exchange: AsgiExchange) -> None:
        scope = exchange.scope
        scope[_EXCHANGE] = exchange
        if b"%" in scope["raw_path"]:
            scope["path"] = path_of(scope["raw_path"])
        await app(scope, exchange.receive, exchange.send)  # type: ignore[arg-type]
        if exchange.failed is not None:
            raise exchange.failed

    return serve


def exchange_of(scope: Scope) -> AsgiExchange:
    """The exchange of a request that came through `behind`."""
    found: AsgiExchange = scope[_EXCHANGE]
    return found


class Call:
    """An operation's RPC, made on behalf of whoever asked."""

    def __init__(self, operation: Operation, wires: Wires) -> None:
        self._domain = operation.domain
        self._wires = wires
        self._rpc: Any = wires.channels[operation.domain].unary_unary(
            operation.path,
            request_serializer=operation.request.SerializeToString,
            response_deserializer=operation.response.FromString,
        )

    async def __call__(self, request: Message, exchange: AsgiExchange, caller: Caller) -> Message:
        shown = Caller()
        shown.CopyFrom(caller)
        shown.request_id = exchange.id
        shown.client_address = exchange.address
        metadata = on_behalf_of(self._wires.identity, shown, self._domain)
        answer: Message = await self._rpc(request, metadata=metadata, timeout=self._wires.deadline)
        return answer


class Endpoint:
    """What answers an operation for the clients of a dialect: admit, read, call, write."""

    def __init__(
        self, dialect: Dialect, operation: Operation, admission: Admission, wires: Wires
    ) -> None:
        self._dialect = dialect
        self._operation = operation
        self._admission = admission
        self._reader = Reader(dialect, operation)
        self._call = Call(operation, wires)
        further = Further.of(dialect, operation)
        self._besides = (further, Call(further.operation, wires)) if further is not None else None
        joins = dialect.joins.get(operation.name, ())
        self._joined = [Joined(join, dialect.codec, wires) for join in joins]
        self._shape = dialect.shape(operation)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        exchange.operation = self._operation
        try:
            principal = await self._admission.admit(exchange, self._operation)
            asked = await self._reader.read(exchange, scope["path_params"])
            answer = await self._do(asked, exchange, principal.caller)
            headers = self._headers(answer, exchange)
            redirected = bool(self._operation.redirect)
            body = b"" if redirected else await self._told(answer, asked.page, exchange)
        except Exception as error:  # `behind` raises it again, outside of the framework
            exchange.failed = error
            return
        await exchange.answer(self._operation.success, body, headers)

    async def _do(self, asked: Asked, exchange: AsgiExchange, caller: Caller) -> Message:
        """Has it done, with what is asked of another operation besides."""
        answer = await self._call(asked.request, exchange, caller)
        self._admission.heed(self._operation, asked.request, answer, caller)
        if self._besides is not None and asked.more is not None:
            further, call = self._besides
            await call(further.told(asked.more, answer), exchange, caller)
        return answer

    async def _told(self, answer: Any, page: Page | None, exchange: AsgiExchange) -> bytes:
        """The body of the answer."""
        dialect, operation = self._dialect, self._operation
        rows = list(getattr(answer, operation.items.name)) if operation.items else [answer]
        items: list[Any] = [dialect.codec.dump(row) for row in rows]
        for joined in self._joined:
            await joined.onto(rows, items)
        if self._shape is not None:
            items = [shaped(self._shape, item) for item in items]
        if page is not None:
            shown = dialect.paging.shown(page, answer.page)
            return encode(dialect.listed(items, shown, exchange.meta()))
        found = items[0] if operation.response.DESCRIPTOR.fields else dialect.empty
        bare = operation.name in dialect.bare
        return encode(found if bare else dialect.success(found, exchange.meta()))

    def _headers(self, answer: Any, exchange: AsgiExchange) -> list[Header]:
        """What of the answer is told in its head."""
        operation = self._operation
        headers: list[Header] = []
        if operation.redirect:
            headers.append((b"location", getattr(answer, operation.redirect).encode()))
        if operation.cookie:
            kept = getattr(answer, operation.cookie, "")  # in the request alone: it is used up
            headers.append(cookies.put(exchange, operation.cookie, kept))
        return headers


class _ServedHot:
    """Stands for a hot route, so that its address is known here; the edge never comes to it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        return


class _Unsaid(Response):
    """An answer that the edge gives instead."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        return


def _unrouted(admission: Admission) -> Callable[[Request, Any], Any]:
    async def refuse(request: Request, error: HTTPException) -> Response:
        exchange = exchange_of(request.scope)
        try:
            await admission.count(exchange)
            exchange.failed = _no_such(request)
        except AppError as limited:
            exchange.failed = limited
        return _Unsaid()

    return refuse


def _no_such(request: Request) -> AppError:
    verbs: set[str] = set()
    for route in request.app.router.routes:
        if isinstance(route, Exact):
            verbs |= route.verbs(request.scope["path"])
        elif route.matches(request.scope)[0] is not Match.NONE:
            verbs |= route.methods or set()
    return MethodNotAllowed(allowed=", ".join(sorted(verbs))) if verbs else RouteNotFound()
