"""A collector of traces: what speaks OTLP/gRPC as a collector does, and keeps what it is sent."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


@dataclass(frozen=True)
class Told:
    """A span as it was sent."""

    service: str
    name: str
    trace_id: str
    id: str
    parent: str
    """Id of the span above it; empty for the first of a trace."""
    links: tuple[str, ...]
    """Trace ids."""
    kind: int
    failed: bool
    nanos: int
    attributes: dict[str, Any] = field(hash=False)


@dataclass
class Collector(TraceServiceServicer):
    endpoint: str = ""
    spans: list[Told] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    """Everything that was sent, as it came."""

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> Any:  # noqa: N802
        self.raw.append(request.SerializeToString())
        for resource in request.resource_spans:
            service = _values(resource.resource.attributes).get("service.name", "")
            for scope in resource.scope_spans:
                self.spans.extend(_told(service, span) for span in scope.spans)
        return ExportTraceServiceResponse()

    def of(self, trace_id: str) -> list[Told]:
        return [span for span in self.spans if span.trace_id == trace_id]

    async def until(self, there: Callable[[list[Told]], Any], seconds: float = 30.0) -> list[Told]:
        """All spans, once `there` is content with them; raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not there(self.spans):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return self.spans


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector on a free port, in threads of its own."""
    found = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(found, server)  # type: ignore[no-untyped-call]
    found.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield found
    finally:
        server.stop(None).wait()


def _told(service: str, span: Any) -> Told:
    return Told(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        tuple(link.trace_id.hex() for link in span.links),
        span.kind,
        span.status.code == 2,
        span.end_time_unix_nano - span.start_time_unix_nano,
        _values(span.attributes),
    )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
