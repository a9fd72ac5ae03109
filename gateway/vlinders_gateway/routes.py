"""Operations × dialects → routes: one endpoint for all that goes field by field."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote

import grpc
from fastapi import FastAPI
from google.protobuf.message import Message
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.api.v1.options_pb2 import Page
from vlinders_gateway import bodies
from vlinders_gateway.admission import Admission
from vlinders_gateway.dialects import DIALECTS, Dialect
from vlinders_gateway.edge import Rest, path_of
from vlinders_gateway.exchange import AsgiExchange, encode
from vlinders_gateway.operations import Operation
from vlinders_gateway.refusals import MalformedRequest, MethodNotAllowed, RouteNotFound
from vlinders_kit.callers import Identity
from vlinders_kit.errors import AppError, InvalidRequest, Violation
from vlinders_kit.rpc import on_behalf_of
from vlinders_kit.validation import validate

_EXCHANGE = "vlinders.exchange"
"""Where the scope of a request keeps its exchange."""

_MOST_PARAMETERS = 100

Hook = Callable[[Any], Any]

Channels = Mapping[str, grpc.aio.Channel]
"""Domain, as `vlinders.auth`, → the channel to it."""


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
    for dialect in DIALECTS:
        for operation, verb, path in dialect.places():
            served: Any = _served_hot
            if not operation.piped:
                call = Call(operation, channels[operation.domain], identity, deadline)
                served = Endpoint(dialect, operation, admission, call)
            for mount in dialect.mounts:
                app.add_route(mount + path, served, [verb], include_in_schema=False)
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

    def __init__(
        self, operation: Operation, channel: grpc.aio.Channel, identity: Identity, deadline: float
    ) -> None:
        self._domain = operation.domain
        self._identity = identity
        self._deadline = deadline
        self._rpc: Any = channel.unary_unary(
            operation.path,
            request_serializer=operation.request.SerializeToString,
            response_deserializer=operation.response.FromString,
        )

    async def __call__(self, request: Message, exchange: AsgiExchange, caller: Caller) -> Message:
        shown = Caller()
        shown.CopyFrom(caller)
        shown.request_id = exchange.id
        shown.client_address = exchange.address
        metadata = on_behalf_of(self._identity, shown, self._domain)
        answer: Message = await self._rpc(request, metadata=metadata, timeout=self._deadline)
        return answer


class Endpoint:
    """What answers an operation for the clients of a dialect: admit, read, call, write."""

    def __init__(
        self, dialect: Dialect, operation: Operation, admission: Admission, call: Call
    ) -> None:
        self._dialect = dialect
        self._operation = operation
        self._admission = admission
        self._call = call
        self._ask: Hook = dialect.asks.get(operation.name, _same)
        self._answer: Hook = dialect.answers.get(operation.name, _same)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        exchange.operation = self._operation
        try:
            principal = await self._admission.admit(exchange, self._operation)
            request, page = await self._read(exchange, scope["path_params"])
            answer = await self._call(request, exchange, principal.caller)
            self._admission.heed(self._operation, request)
            body = encode(self._told(answer, page, exchange))
        except Exception as error:  # `behind` raises it again, outside of the framework
            exchange.failed = error
            return
        await exchange.answer(self._operation.success, body)

    async def _read(
        self, exchange: AsgiExchange, path: Mapping[str, str]
    ) -> tuple[Message, Page | None]:
        """The request, and the page that it asks for. Every fault of it is told at once."""
        operation, codec = self._operation, self._dialect.codec
        faults: list[Violation] = []
        body: dict[str, Any] = {}
        query: dict[str, str] = {}
        page = None
        sent = await exchange.body()  # of any request: one whose body is malformed is none
        if operation.writes:
            body = self._ask(bodies.parse(sent))
        else:
            query = _query(exchange)
        kind: Any = operation.request
        request = kind()
        named = {name: unquote(value) for name, value in path.items()}
        texts = self._chosen(query, faults) | named
        for given, text in ((body, False), (texts, True)):
            load = partial(codec.load, kind, given, text=text)
            request.MergeFrom(_faultless(faults, load) or kind())
        if operation.items is not None:
            page = _faultless(faults, partial(self._dialect.paging.read, query))
            request.page.CopyFrom(page or Page())
        _check(request, faults)
        if faults:
            raise InvalidRequest(broken=tuple(faults))
        return request, page

    def _chosen(self, query: Mapping[str, str], faults: list[Violation]) -> dict[str, str]:
        """The fields that a query names, plainly or as a filter."""
        kind: Any = self._operation.request.DESCRIPTOR
        codec = self._dialect.codec
        fields = {codec.spelling(field) for field in kind.fields if field.name != "page"}
        chosen = {}
        for word, value in query.items():
            name = self._dialect.filters(word)
            if name is not None and name not in fields:
                faults.append(Violation(word, "is nothing that this list is filtered by"))
            elif name is not None:
                chosen[name] = value
            elif word in fields:
                chosen.setdefault(word, value)
        return chosen

    def _told(self, answer: Any, page: Page | None, exchange: AsgiExchange) -> Any:
        dialect, operation = self._dialect, self._operation
        if page is not None and operation.items is not None:
            rows = getattr(answer, operation.items.name)
            items = [self._answer(dialect.codec.dump(row)) for row in rows]
            return dialect.listed(items, dialect.paging.shown(page, answer.page), exchange.meta())
        found = self._answer(dialect.codec.dump(answer))
        return found if operation.name in dialect.bare else dialect.success(found, exchange.meta())


def _check(request: Message, faults: list[Violation]) -> None:
    """Adds what breaks a rule of the contract, but for fields that were not read at all."""
    unread = {fault.field.partition("[")[0] for fault in faults}
    try:
        validate(request)
    except InvalidRequest as error:
        broken = error.broken
        faults += [row for row in broken if row.field.partition("[")[0] not in unread]


def _faultless(faults: list[Violation], step: Callable[[], Any]) -> Any:
    """What `step` returns; where it finds faults, None, and they are among `faults`."""
    try:
        return step()
    except InvalidRequest as error:
        faults.extend(error.broken)
        return None


def _query(exchange: AsgiExchange) -> dict[str, str]:
    try:
        text = exchange.scope["query_string"].decode("ascii")
        pairs = parse_qsl(
            text, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS, errors="strict"
        )
    except ValueError:  # too many, or no UTF-8
        raise MalformedRequest(what="the query") from None
    return dict(pairs)


def _same(value: Any) -> Any:
    return value


async def _served_hot(request: Request) -> Response:
    """Stands for a hot route, so that its address is known here; the edge never comes to it."""
    return _Unsaid()


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
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            verbs |= route.methods or set()
    return MethodNotAllowed(allowed=", ".join(sorted(verbs))) if verbs else RouteNotFound()
