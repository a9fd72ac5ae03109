"""Metrics and traces. Domain code measures nothing: the interceptors do."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry import propagate, trace
from prometheus_client import Counter, Histogram

_SERVED = Counter("vlinders_rpc_served_total", "RPCs served.", ["service", "method", "code"])
_SECONDS = Histogram(
    "vlinders_rpc_seconds",
    "Time to serve an RPC.",
    ["service", "method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_ANSWERED = Counter(
    "vlinders_http_answered_total", "HTTP requests answered.", ["service", "operation", "status"]
)
_ANSWER_SECONDS = Histogram(
    "vlinders_http_seconds",
    "Time from a request's headers to the end of its answer.",
    ["service", "operation"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)


@dataclass
class Outcome:
    """How an RPC ended: the name of its gRPC status."""

    code: str = "OK"


@contextmanager
def served(service: str, path: str, metadata: Iterable[Any]) -> Iterator[Outcome]:
    """Counts and times one RPC, in a span that continues the caller's trace."""
    outcome = Outcome()
    method = path.rpartition("/")[2]
    began = time.perf_counter()
    carrier = {name: value for name, value in metadata if isinstance(value, str)}
    tracer = trace.get_tracer("vlinders")
    with tracer.start_as_current_span(
        path.lstrip("/"),
        propagate.extract(carrier),
        trace.SpanKind.SERVER,
        attributes={"rpc.system": "grpc", "rpc.method": method},
        record_exception=False,
    ) as span:
        try:
            yield outcome
        except BaseException:
            if outcome.code == "OK":
                outcome.code = "CANCELLED"
            raise
        finally:
            span.set_attribute("rpc.grpc.status", outcome.code)
            _SERVED.labels(service, method, outcome.code).inc()
            _SECONDS.labels(service, method).observe(time.perf_counter() - began)


class HttpMeter:
    """Counts and times the HTTP requests of one part, cheaply enough for its hottest path."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._counters: dict[tuple[str, int], Any] = {}
        self._timers: dict[str, Any] = {}

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """`operation` is one of a few names that the part itself has, never a client's text."""
        counter = self._counters.get((operation, status))
        if counter is None:
            counter = _ANSWERED.labels(self._service, operation, status)
            self._counters[operation, status] = counter
        timer = self._timers.get(operation)
        if timer is None:
            timer = self._timers[operation] = _ANSWER_SECONDS.labels(self._service, operation)
        counter.inc()
        timer.observe(seconds)


@contextmanager
def asked(traceparent: str) -> Iterator[trace.Span]:
    """A span for a request from outside; continues `traceparent` unless that is empty."""
    context = propagate.extract({"traceparent": traceparent}) if traceparent else None
    tracer = trace.get_tracer("vlinders")
    with tracer.start_as_current_span(
        "request", context, trace.SpanKind.SERVER, record_exception=False
    ) as span:
        yield span


def outgoing() -> list[tuple[str, str]]:
    """The trace context of what runs now, as metadata of a call."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return list(carrier.items())


def trace_id() -> str | None:
    """Id of the trace that runs now, in hex; None outside of one."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


def export(service: str, endpoint: str | None, *, sampled: float) -> None:
    """Sends this process's spans to an OTLP/gRPC `endpoint`; without one, makes none.

    `sampled` is the share of traces that start here; those of a caller are kept as the caller says.
    """
    if not endpoint:
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        resource=Resource.create({"service.name": service}),
        sampler=ParentBased(TraceIdRatioBased(sampled)),
    )
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
