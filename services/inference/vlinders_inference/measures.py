"""What is measured of generations: the pipe passes the interceptors by, so this counts them."""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from vlinders.inference.v1.events_pb2 import UsageRecorded

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)

_ENDED = Counter(
    "vlinders_inference_generations_total",
    "Admitted requests that have ended.",
    ["operation", "served_by", "outcome"],
)
_REFUSED = Counter(
    "vlinders_inference_refused_total", "Requests that were not admitted.", ["reason"]
)
_TOKENS = Counter("vlinders_inference_tokens_total", "Tokens used.", ["served_by", "bucket"])
_ESTIMATED = Counter(
    "vlinders_inference_estimated_total", "Requests whose tokens were estimated.", ["served_by"]
)
_FIRST = Histogram(
    "vlinders_inference_first_token_seconds", "To the first token.", ["served_by"], buckets=_SECONDS
)
_TOTAL = Histogram(
    "vlinders_inference_seconds", "From admission to the end.", ["served_by"], buckets=_SECONDS
)
_FAILED = Counter(
    "vlinders_inference_attempts_failed_total", "Engines that gave no answer.", ["served_by"]
)
USAGE_WAITING = Gauge(
    "vlinders_inference_usage_waiting", "Records of usage that are not written yet."
)


def ended(event: UsageRecorded) -> None:
    """Counts a request by its record."""
    by = event.served_by or "nobody"
    outcome = UsageRecorded.Outcome.Name(event.outcome)
    _counter(_ENDED, event.operation, by, outcome.removeprefix("OUTCOME_").lower()).inc()
    _counter(_TOKENS, by, "input").inc(event.input_tokens)
    _counter(_TOKENS, by, "cached_input").inc(event.cached_input_tokens)
    _counter(_TOKENS, by, "output").inc(event.output_tokens)
    if event.estimated:
        _counter(_ESTIMATED, by).inc()
    if event.first_token_ms:
        _histogram(_FIRST, by).observe(event.first_token_ms / 1000)
    _histogram(_TOTAL, by).observe(event.total_ms / 1000)


def refused(reason: str) -> None:
    """Counts a request that was not admitted."""
    _counter(_REFUSED, reason).inc()


def attempt_failed(served_by: str) -> None:
    _counter(_FAILED, served_by).inc()


@cache
def _counter(family: Counter, *labels: str) -> Counter:
    """Looking a child up by its labels costs more than counting."""
    return family.labels(*labels)


@cache
def _histogram(family: Histogram, *labels: str) -> Histogram:
    return family.labels(*labels)
