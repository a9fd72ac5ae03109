"""Metrics of what is served. Domain code measures nothing: the interceptors do."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Histogram

from vlinders_kit import tracing
from vlinders_kit.metrics import Counts, Times

_SERVED = Counter("vlinders_rpc_served_total", "RPCs served.", ["service", "method", "code"])
_SECONDS = Histogram(
    "vlinders_rpc_seconds",
    "Time to serve an RPC.",
    ["service", "method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_ANSWERED = Counts(
    "vlinders_http_answered", "HTTP requests answered.", ("service", "operation", "status")
)
_ANSWER_SECONDS = Times(
    "vlinders_http_seconds",
    "Time from a request's headers to the end of its answer.",
    ("service", "operation"),
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)

_RPC = {"rpc.system": "grpc"}


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
    traceparent = next((str(value) for name, value in metadata if name == "traceparent"), "")
    with tracing.received(traceparent, path.lstrip("/"), SpanKind.SERVER) as span:
        try:
            yield outcome
        except BaseException:
            if outcome.code == "OK":
                outcome.code = "CANCELLED"
            raise
        finally:
            if span.kept:
                span.tell({**_RPC, "rpc.method": method, "rpc.grpc.status": outcome.code})
                if outcome.code != "OK":
                    span.fail(outcome.code)
            _SERVED.labels(service, method, outcome.code).inc()
            _SECONDS.labels(service, method).observe(time.perf_counter() - began)


class HttpMeter:
    """Counts and times the HTTP requests of one part, cheaply enough for its hottest path."""

    def __init__(self, service: str) -> None:
        self._service = service

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """`operation` is one of a few names that the part itself has, never a client's text."""
        _ANSWERED.add((self._service, operation, status))
        _ANSWER_SECONDS.observe((self._service, operation), seconds)
