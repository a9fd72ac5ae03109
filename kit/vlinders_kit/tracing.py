"""Traces: the way of a request through all parts, for the requests that are kept.

Whether one is kept is decided once, at the edge: a share of all, and what a trusted caller keeps.
For the others no span is made, sent or looked up; but one that fails, or is slow, is told
afterwards, by the parts that see it.

That works because each part knows by the id of a request where its spans belong (`trace_ids`).
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from vlinders_kit.trace_ids import place, read, written

if TYPE_CHECKING:  # a process that exports nothing does not load it: it weighs some megabytes
    from opentelemetry.sdk.trace import TracerProvider

Attributes = Mapping[str, str | bool | int | float | Sequence[str]]

CLOSE_SECONDS = 3.0
"""How long the last spans may take to be sent, when a process ends."""

SLOW_SECONDS = 10.0


class _Ids:
    """The SDK's `IdGenerator`: random ids, but for the next span, if they were given."""

    def __init__(self) -> None:
        self.next: SpanContext | None = None

    def generate_trace_id(self) -> int:
        return self.next.trace_id if self.next is not None else random.getrandbits(128) or 1

    def generate_span_id(self) -> int:
        given, self.next = self.next, None
        return given.span_id if given is not None else random.getrandbits(64) or 1

    def is_trace_id_random(self) -> bool:
        return True


class _Exporting:
    """What this process does with spans."""

    def __init__(self, provider: "TracerProvider", own: _Ids, share: float, slow: float) -> None:
        self.provider = provider
        self.tracer = provider.get_tracer("vlinders")
        self.ids = own
        self.share = share
        self.slow = slow


_exporting: _Exporting | None = None
"""Set once, when the process starts; None: no request is traced."""


class Span:
    """A span that runs. As a context manager it is what runs now, fails with it, and ends with it.

    Attributes are of OpenTelemetry's conventions, or `vlinders.…`; never of a client's own text.
    """

    __slots__ = ("_failed", "_span", "_token")
    kept = True

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._failed = False
        self._token: Token[Span | None] | None = None

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def traceparent(self) -> str:
        """What has another part continue it here (W3C Trace Context)."""
        return written(self._span.get_span_context())

    def tell(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def name(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, error: str) -> None:
        """Says that it failed, with what class of failure; the first one counts."""
        if self._failed:
            return
        self._failed = True
        self._span.set_status(Status(StatusCode.ERROR))
        self._span.set_attribute("error.type", error)

    def child(self, name: str, kind: SpanKind = SpanKind.INTERNAL) -> "Span":
        return _started(name, kind, self._span.get_span_context())

    def enter(self) -> None:
        """Makes it what runs now, until `end`."""
        self._token = _running.set(self)

    def end(self) -> None:
        self._span.end()
        if self._token is not None:
            _running.reset(self._token)
            self._token = None

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.fail(getattr(error, "reason", None) or type(error).__name__)
        self.end()


class Untraced:
    """In place of a span, where the request is not kept."""

    __slots__ = ()
    kept = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tell(self, attributes: Attributes) -> None:
        pass

    def fail(self, error: str) -> None:
        pass


UNTRACED = Untraced()
_running: ContextVar[Span | None] = ContextVar("span", default=None)


def export(
    service: str, endpoint: str | None, *, sampled: float, slow: float = SLOW_SECONDS
) -> None:
    """Sends this process's spans to an OTLP/gRPC `endpoint`; without one, makes none.

    `sampled` is the share of the traces that begin here and are kept. Headers, certificates and
    batches are as the variables of OpenTelemetry say (`OTEL_EXPORTER_OTLP_…`, `OTEL_BSP_…`).
    """
    global _exporting
    if not endpoint:
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    own = _Ids()
    provider = TracerProvider(
        resource=Resource.create({"service.name": service}),
        sampler=ALWAYS_ON,  # what is not kept makes no span
        id_generator=own,  # type: ignore[arg-type]
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _exporting = _Exporting(provider, own, sampled, slow)


async def close() -> None:
    """Sends what is left, as far as that can be done in CLOSE_SECONDS. No span is made any more."""
    global _exporting
    exporting, _exporting = _exporting, None
    if exporting is not None:
        flush = exporting.provider.force_flush
        await asyncio.to_thread(flush, int(CLOSE_SECONDS * 1000))
        await asyncio.to_thread(exporting.provider.shutdown)


def begin(request_id: str, incoming: str = "", *, trusted: bool = False) -> Span | None:
    """Decides on a request: its first span here, if it is kept.

    `incoming` is the client's own `traceparent`, or empty. One that is trusted decides, and what it
    keeps is continued; another one is linked to.
    """
    if _exporting is None:
        return None
    theirs = read(incoming) if incoming else None
    if theirs is None or not trusted:
        if random.random() >= _exporting.share:
            return None
        links = () if theirs is None else (theirs,)
        return _started(request_id, SpanKind.SERVER, None, links=links, own=place(request_id))
    if not theirs.trace_flags.sampled:
        return None
    return _started(request_id, SpanKind.SERVER, theirs)


def received(traceparent: str, name: str, kind: SpanKind = SpanKind.SERVER) -> Span | Untraced:
    """A span for what another part asks for under `traceparent`, if that is kept."""
    if not traceparent or _exporting is None:
        return UNTRACED
    above = read(traceparent)
    if above is None or not above.trace_flags.sampled:
        return UNTRACED
    return _started(name, kind, above)


def step(name: str, kind: SpanKind = SpanKind.INTERNAL) -> Span | Untraced:
    """A span for a step of what runs now, if that is kept."""
    running = _running.get()
    return UNTRACED if running is None else running.child(name, kind)


def running() -> Span | None:
    """What runs now; None outside of a request that is kept."""
    return _running.get()


def trace_id() -> str | None:
    """Id of the trace that runs now, in hex; None outside of one."""
    running = _running.get()
    return None if running is None else running.trace_id


def outgoing() -> Sequence[tuple[str, str]]:
    """What runs now, as metadata of a call."""
    running = _running.get()
    return () if running is None else (("traceparent", running.traceparent),)


def worth(failed: bool, seconds: float) -> bool:
    """Whether a request that is not kept is to be told afterwards."""
    return _exporting is not None and (failed or seconds > _exporting.slow)


def afterwards(
    name: str,
    request_id: str,
    *,
    seconds: float,
    attributes: Attributes,
    error: str | None,
    first: bool = False,
) -> None:
    """Tells of a request that was not kept, and has ended now, as a span of `seconds`.

    `first`: it is the span of the edge itself, below which those of the others stand.
    """
    if _exporting is None:
        return
    edge = place(request_id)
    ended = time.time_ns()
    began = ended - int(seconds * 1e9)
    above, own = (None, edge) if first else (edge, None)
    span = _started(name, SpanKind.SERVER, above, own=own, at=began)
    span.tell({**attributes, "vlinders.request_id": request_id, "vlinders.kept": "afterwards"})
    if error is not None:
        span.fail(error)
    span._span.end(ended)


def _started(
    name: str,
    kind: SpanKind,
    above: SpanContext | None,
    *,
    links: Sequence[SpanContext] = (),
    own: SpanContext | None = None,
    at: int | None = None,
) -> Span:
    assert _exporting is not None
    _exporting.ids.next = own
    context = Context()
    if above is not None:
        context = trace.set_span_in_context(trace.NonRecordingSpan(above), context)
    return Span(
        _exporting.tracer.start_span(
            name, context, kind, links=[Link(link) for link in links], start_time=at
        )
    )
