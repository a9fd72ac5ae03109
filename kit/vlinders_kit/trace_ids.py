"""Ids of traces, and how they travel: the id of a trace that began here is that of its request.

The UUID of the request is the trace's, and the lower half of it the id of the first span (W3C Trace
Context wants 56 random bits; there are 62). So who knows the one knows the other.
"""

import random
import re
from uuid import UUID

from opentelemetry.trace import SpanContext, TraceFlags

from vlinders_kit import ids

_LOWER = (1 << 64) - 1
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def trace_of(request_id: str) -> str:
    """Id of the trace that began with a request, in hex; empty if that is no id of ours."""
    id = ids.read(request_id.rpartition("_")[0], request_id)
    return "" if id is None else id.hex


def id_in(traceparent: str) -> str:
    """Id of the trace that a `traceparent` names; empty for what is none."""
    context = read(traceparent)
    return "" if context is None else f"{context.trace_id:032x}"


def request_of(trace: str) -> str | None:
    """Id of the request that a trace began with, unless it cannot have begun here."""
    try:
        return ids.spell("req", UUID(trace))
    except ValueError:
        return None


def place(request_id: str) -> SpanContext:
    """Where the first span of a request's own trace is."""
    number = int(trace_of(request_id) or "0", 16) or random.getrandbits(128)
    return _context(number, number & _LOWER or 1, TraceFlags.SAMPLED)


def read(traceparent: str) -> SpanContext | None:
    """The span that a `traceparent` names; None for what is none."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    context = _context(*(int(part, 16) for part in found.groups()))
    return context if context.is_valid else None


def _context(trace_id: int, span_id: int, flags: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def written(context: SpanContext) -> str:
    """The `traceparent` that names a span."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
