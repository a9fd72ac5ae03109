"""gRPC between parts: what stands before every handler, and channels that say who calls."""

import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders_kit import logs, telemetry, tracing
from vlinders_kit.callers import METADATA, CallerKey, CallerNotTrusted, Identity, set_caller
from vlinders_kit.errors import AppError, Unavailable, failure_of, meaning_of, status_of
from vlinders_kit.policies import method_of, policy_of, require
from vlinders_kit.tls import Tls, open_channel
from vlinders_kit.validation import validate

DEADLINE_SECONDS = 5.0
"""Of a unary call that names none of its own."""

OPTIONS: Sequence[tuple[str, int | str]] = (
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),
    ("grpc.max_send_message_length", 32 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
)

SERVER_OPTIONS = (
    *OPTIONS,
    # Without it a second process would get the port, too, and half of the calls.
    ("grpc.so_reuseport", 0),
    # A client looks names up again when a connection ends, and not before: so it finds replicas
    # that were added. Its calls go over to a new connection, and what runs on the old one ends
    # there: there is no grace after which it would be cut, since workers' streams last for days.
    ("grpc.max_connection_age_ms", 60_000),
)

_OPEN = ("grpc.health.v1.Health", "grpc.reflection.")
"""Services that answer anybody who can reach the port: they tell nothing of anybody's."""

_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

log = logs.get(__name__)


class PeerUnavailable(Unavailable):
    """A part of the platform does not answer at the moment."""


class InternalError(AppError):
    """Something went wrong on our side."""

    trace_id: str = ""


Metadata = Iterable[tuple[str, str | bytes]]

if TYPE_CHECKING:  # generic to mypy alone
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Handler, Context = grpc.RpcMethodHandler, grpc.aio.ServicerContext


class Guard(grpc.aio.ServerInterceptor):
    """Stands before every handler: caller, policy, validation, errors, metrics and log."""

    def __init__(self, domain: str, key: CallerKey) -> None:
        self.domain = domain
        self.key = key

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(details)
        path = details.method
        if handler is None or path.lstrip("/").startswith(_OPEN):
            return handler
        policy = policy_of(method_of(path))
        if handler.response_streaming:
            return self._streaming(handler, path, policy)
        return self._unary(handler, path, policy)

    def _unary(self, handler: Handler, path: str, policy: api.Policy) -> Handler:
        inner: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def serve(request: Any, context: Context) -> Any:
            with telemetry.served(
                self.domain, path, context.invocation_metadata() or ()
            ) as outcome:
                try:
                    self._admit(policy, context)
                    if isinstance(request, Message):
                        validate(request)
                    return await inner(request, context)
                except Exception as error:  # every failure leaves as a status, none as text
                    await self._refuse(error, path, context, outcome)

        kind: Any = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return cast(Handler, kind(serve, handler.request_deserializer, handler.response_serializer))

    def _streaming(self, handler: Handler, path: str, policy: api.Policy) -> Handler:
        inner: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def serve(request: Any, context: Context) -> AsyncIterator[Any]:
            with telemetry.served(
                self.domain, path, context.invocation_metadata() or ()
            ) as outcome:
                try:
                    self._admit(policy, context)
                    if isinstance(request, Message):
                        validate(request)
                    async for answer in inner(request, context):
                        yield answer
                except Exception as error:  # as above
                    await self._refuse(error, path, context, outcome)

        async def converse(request: Any, context: Context) -> None:
            with telemetry.served(
                self.domain, path, context.invocation_metadata() or ()
            ) as outcome:
                try:
                    self._admit(policy, context)
                    await inner(request, context)
                except Exception as error:  # as above
                    await self._refuse(error, path, context, outcome)

        kind: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        # A coroutine reads and writes by its context: for streams of many small messages.
        served: Any = converse if inspect.iscoroutinefunction(inner) else serve
        return cast(
            Handler, kind(served, handler.request_deserializer, handler.response_serializer)
        )

    def admit(self, path: str, metadata: Metadata) -> None:
        """Lets a call of the RPC `path` pass that does not come over grpcio; raises as any does."""
        self._let_in(policy_of(method_of(path)), metadata)

    def _admit(self, policy: api.Policy, context: Context) -> None:
        self._let_in(policy, context.invocation_metadata() or ())

    def _let_in(self, policy: api.Policy, metadata: Metadata) -> None:
        if policy.access == api.ACCESS_WORKER:
            return  # its own credential, a join token, is the servicer's to check
        for name, value in metadata:
            if name == METADATA and isinstance(value, bytes):
                caller = self.key.verify(value, self.domain)
                break
        else:
            raise CallerNotTrusted
        require(policy, caller)
        set_caller(caller)

    async def _refuse(
        self, error: Exception, path: str, context: Context, outcome: telemetry.Outcome
    ) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, grpc.aio.AioRpcError) and (status := _refusal(error)) is not None:
            # What a peer refused, it refused for a reason that is the caller's to know.
            outcome.code = error.code().name
            await context.abort_with_status(rpc_status.to_status(status))
        told = known(error)
        if isinstance(told, InternalError):
            log.error("rpc_failed", method=path, exc_info=error)
        elif told is not error:
            log.warning("rpc_failed", method=path, reason=told.reason, error=type(error).__name__)
        outcome.code = told.status.name
        await context.abort_with_status(rpc_status.to_status(status_of(told, self.domain)))


def known(error: Exception) -> AppError:
    """What any failure of a handler is told as: itself, something that is away, or a bug."""
    if isinstance(error, AppError):
        return error
    if isinstance(error, grpc.aio.AioRpcError) and error.code() in _AWAY:
        return PeerUnavailable()
    return meaning_of(error) or InternalError(trace_id=tracing.trace_id() or "")


def _refusal(error: grpc.aio.AioRpcError) -> Status | None:
    """What a peer said in its own words; None for what gRPC says, which tells of addresses, and for
    a peer that does not trust us, which is no fault of whoever called us."""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            status = Status.FromString(value)
            return None if failure_of(status).reason == CallerNotTrusted.reason else status
    return None


def connect(
    target: str,
    audience: str,
    identity: Identity,
    tls: Tls | None = None,
    *,
    offering: str | None = None,
) -> grpc.aio.Channel:
    """A channel to the service `audience` (as `vlinders.auth`) at `target`; with `tls`, encrypted.

    Calls carry `identity`, unless their metadata name a caller already, and a deadline always. They
    go to those addresses whose health says that `offering`, the full name of a service, can be
    used there, where it is given: of replicas that take turns only one offers it.
    """
    interceptors: list[grpc.aio.ClientInterceptor] = [
        _SignedUnary(audience, identity),
        _SignedStream(audience, identity),
        _SignedServerStream(audience, identity),
    ]
    options = [*OPTIONS]
    if offering is not None:
        asked = {"healthCheckConfig": {"serviceName": offering}}
        options.append(("grpc.service_config", json.dumps(asked)))
    return open_channel(target, audience, tls, options=options, interceptors=interceptors)


def on_behalf_of(identity: Identity, caller: Caller, audience: str) -> list[tuple[str, bytes]]:
    """Metadata of a call that the caller's request at the edge makes necessary."""
    return [identity.metadata(audience, caller)]


class _Signed:
    def __init__(self, audience: str, identity: Identity) -> None:
        self.audience = audience
        self.identity = identity

    def _with_caller(
        self, details: grpc.aio.ClientCallDetails, *, deadline: float | None
    ) -> grpc.aio.ClientCallDetails:
        metadata = list(details.metadata or ())
        if not any(name == METADATA for name, _ in metadata):
            metadata.append(self.identity.metadata(self.audience))
        metadata.extend(tracing.outgoing())
        timeout = details.timeout if details.timeout is not None else deadline
        return grpc.aio.ClientCallDetails(
            details.method,
            timeout,
            grpc.aio.Metadata(*metadata),
            details.credentials,
            details.wait_for_ready,
        )


class _SignedUnary(_Signed, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self._with_caller(details, deadline=DEADLINE_SECONDS), request)


class _SignedServerStream(_Signed, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self._with_caller(details, deadline=None), request)


class _SignedStream(_Signed, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(self._with_caller(details, deadline=None), requests)
