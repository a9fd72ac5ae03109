"""gRPC between parts: what stands before every handler, and channels that say who calls."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status
from sqlalchemy.exc import DBAPIError, TimeoutError as PoolTimeout

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders_kit import logs, telemetry
from vlinders_kit.callers import METADATA, CallerKey, CallerNotTrusted, Identity, set_caller
from vlinders_kit.errors import AppError, Unavailable, status_of
from vlinders_kit.policies import method_of, policy_of, require
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
)
_OPEN = ("grpc.health.v1.Health", "grpc.reflection.")
"""Services that answer anybody who can reach the port: they tell nothing of anybody's."""

log = logs.get(__name__)


class DatabaseUnavailable(Unavailable):
    """The database does not answer at the moment."""


class InternalError(AppError):
    """Something went wrong on our side."""


class Guard(grpc.aio.ServerInterceptor):
    """Stands before every handler: caller, policy, validation, errors, metrics and log."""

    def __init__(self, domain: str, key: CallerKey) -> None:
        self.domain = domain
        self.key = key

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(details)
        path = details.method
        if handler is None or path.lstrip("/").startswith(_OPEN):
            return handler
        policy = policy_of(method_of(path))
        if handler.response_streaming:
            return self._streaming(handler, path, policy)
        return self._unary(handler, path, policy)

    def _unary(
        self, handler: grpc.RpcMethodHandler, path: str, policy: api.Policy
    ) -> grpc.RpcMethodHandler:
        inner = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def serve(request: Any, context: grpc.aio.ServicerContext) -> Any:
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

        kind = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return kind(serve, handler.request_deserializer, handler.response_serializer)

    def _streaming(
        self, handler: grpc.RpcMethodHandler, path: str, policy: api.Policy
    ) -> grpc.RpcMethodHandler:
        inner = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def serve(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
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

        kind = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return kind(serve, handler.request_deserializer, handler.response_serializer)

    def _admit(self, policy: api.Policy, context: grpc.aio.ServicerContext) -> None:
        if policy.access == api.ACCESS_WORKER:
            return  # its own credential, a join token, is the servicer's to check
        for name, value in context.invocation_metadata() or ():
            if name == METADATA and isinstance(value, bytes):
                caller = self.key.verify(value, self.domain)
                break
        else:
            raise CallerNotTrusted
        require(policy, caller)
        set_caller(caller)

    async def _refuse(
        self,
        error: Exception,
        path: str,
        context: grpc.aio.ServicerContext,
        outcome: telemetry.Outcome,
    ) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, grpc.aio.AioRpcError):
            # What a peer refused, it refused for a reason that is the caller's to know.
            outcome.code = error.code().name
            status = rpc_status.from_call(error)  # type: ignore[arg-type]
            if status is not None:
                await context.abort_with_status(rpc_status.to_status(status))
            await context.abort(error.code(), error.details() or "")
        told = known(error)
        if not isinstance(error, AppError):
            log.error("rpc_failed", method=path, reason=told.reason, exc_info=error)
        outcome.code = told.status.name
        await context.abort_with_status(rpc_status.to_status(status_of(told, self.domain)))


def known(error: Exception) -> AppError:
    """What any failure of a handler is told as: itself, the database's absence, or a bug."""
    if isinstance(error, AppError):
        return error
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    refused = type(error).__name__ in ("OperationalError", "PoolTimeout", "ConnectionTimeout")
    if isinstance(error, PoolTimeout) or lost or refused:
        return DatabaseUnavailable()
    return InternalError()


def connect(target: str, audience: str, identity: Identity) -> grpc.aio.Channel:
    """A channel to the service `audience` (as `vlinders.auth`) at `target`.

    Calls carry `identity`, unless their metadata name a caller already, and a deadline always.
    """
    return grpc.aio.insecure_channel(
        target,
        options=OPTIONS,
        interceptors=[
            _SignedUnary(audience, identity),
            _SignedStream(audience, identity),
            _SignedServerStream(audience, identity),
        ],
    )


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
        metadata.extend(telemetry.outgoing())
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
