"""What is traced of a generation, in the words of OpenTelemetry's conventions for generative AI.

Names, numbers and outcomes: nothing of what was asked or answered, and nothing of a key.
"""

import re

from opentelemetry.trace import SpanKind

from vlinders.inference.v1.events_pb2 import UsageRecorded
from vlinders_inference.connections import with_header
from vlinders_inference.engines import Attempt
from vlinders_inference.jobs import Job
from vlinders_kit import tracing

OPERATIONS = {"CreateChatCompletion": "chat", "CreateEmbeddings": "embeddings"}
OWN = "vlinders"
"""Provider of what own workers serve."""

_MODEL = re.compile(rb'"model":\s*"([^"\\]{1,100})"')
_OUTCOMES = {
    number: name.removeprefix("OUTCOME_").lower() for name, number in UsageRecorded.Outcome.items()
}


def asking(job: Job, attempt: Attempt) -> None:
    """Begins the span of an attempt, and has the engine continue it. The job's own is kept."""
    assert job.span is not None
    operation = OPERATIONS[job.operation]
    span = job.asking = job.span.child(f"{operation} {attempt.name}", SpanKind.CLIENT)
    host, _, port = attempt.target.host_header.rpartition(":")
    told: dict[str, str | int] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": OWN if attempt.worker_id else attempt.served_by,
        "gen_ai.request.model": attempt.name,
        "gen_ai.request.max_tokens": job.ask.max_tokens,
        "server.address": host or attempt.target.host_header,
    }
    if host and port.isdecimal():
        told["server.port"] = int(port)
    if attempt.worker_id:
        told["vlinders.worker_id"] = attempt.worker_id
    span.tell(told)
    attempt.head = with_header(attempt.head, "traceparent", span.traceparent)


def heard(job: Job, answer: bytes) -> None:
    """Notes what the engine calls the model, in the first bytes of its answer."""
    if job.asking is not None and (found := _MODEL.search(answer)):
        job.asking.tell({"gen_ai.response.model": found[1].decode(errors="replace")})


def unanswered(job: Job, error: str) -> None:
    """The attempt has ended without an answer."""
    if job.asking is not None:
        job.asking.fail(error)
        job.asking.end()
        job.asking = None


def ended(job: Job, record: UsageRecorded) -> None:
    """Tells what became of the request, by its record. What is not kept is told if it failed."""
    failed = record.outcome == UsageRecorded.OUTCOME_FAILED
    if job.span is None:
        seconds = record.total_ms / 1000
        if tracing.worth(failed, record.first_token_ms / 1000 or seconds):
            error = "failed" if failed else None
            tracing.afterwards(
                job.operation, job.request_id, seconds=seconds, attributes=_all(record), error=error
            )
        return
    answer = {"gen_ai.response.finish_reasons": [job.finish_reason]} if job.finish_reason else {}
    job.span.tell({**_all(record), **answer})
    if failed:
        job.span.fail("failed")
    if job.asking is not None:
        job.asking.tell({**_usage(record), **answer})
        if failed:
            job.asking.fail("failed")
        job.asking.end()
    record.traceparent = job.span.traceparent


def _all(record: UsageRecorded) -> dict[str, str | int | float | bool]:
    return {
        "gen_ai.operation.name": OPERATIONS[record.operation],
        "gen_ai.request.model": record.model,
        "gen_ai.response.time_to_first_chunk": record.first_token_ms / 1000,
        **_usage(record),
        "vlinders.account_id": record.account_id,
        "vlinders.charged_nanos": record.charged_nanos,
        "vlinders.estimated": record.estimated,
        "vlinders.lease_id": record.lease_id,
        "vlinders.outcome": _OUTCOMES[record.outcome],
        "vlinders.price_version": record.price_version,
        "vlinders.request_id": record.request_id,
        "vlinders.served_by": record.served_by,
        "vlinders.stream": record.stream,
        "vlinders.tenant_id": record.tenant_id,
    }


def _usage(record: UsageRecorded) -> dict[str, int]:
    """By the conventions, what came out of a cache is among the input."""
    return {
        "gen_ai.usage.input_tokens": record.input_tokens + record.cached_input_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_input_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
    }
