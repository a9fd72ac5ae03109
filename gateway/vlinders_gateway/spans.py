"""The edge's span of a request: where a trace begins, or goes on for a proxy that is trusted."""

from vlinders_gateway.exchange import Exchange
from vlinders_kit import tracing

FAULT = 500
"""Statuses from here on are faults of ours."""

_LONGEST = 55
"""Characters of a `traceparent`."""


def begin_trace(exchange: Exchange, header: bytes, *, trusted: bool) -> None:
    """Decides whether the request is traced; `header` is the client's `traceparent`."""
    incoming = header.decode("latin-1") if len(header) == _LONGEST else ""
    span = exchange.span = tracing.begin(exchange.id, incoming, trusted=trusted)
    if span is not None:
        exchange.traceparent = span.traceparent


def end_trace(exchange: Exchange, status: int, seconds: float) -> None:
    """Ends the request's span. One that is not kept is told now, if it failed or was slow."""
    span, operation = exchange.span, exchange.operation
    failed = status >= FAULT
    if span is None:
        # How long a piped operation may take is the client's to say; inference knows of its start.
        slow = 0.0 if operation is not None and operation.piped else seconds
        if not tracing.worth(failed, slow):
            return
    told: dict[str, str | int] = {
        "http.request.method": exchange.scope["method"],
        "http.response.status_code": status,
    }
    if exchange.caller is not None:
        told["vlinders.tenant_id"] = exchange.caller.tenant_id
    name = operation.name if operation is not None else "none"
    error = str(status) if failed else None
    if span is None:
        tracing.afterwards(
            name,
            exchange.id,
            seconds=seconds,
            attributes=told,
            error=error,
            first=True,
        )
        return
    span.name(name)
    span.tell({**told, "vlinders.request_id": exchange.id})
    if error is not None:
        span.fail(error)
    span.end()
