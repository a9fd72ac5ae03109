"""What is measured of generations: the pipe passes the interceptors by, so this counts them."""

from functools import cache

from prometheus_client import Gauge

from vlinders.inference.v1.events_pb2 import UsageRecorded
from vlinders_kit.metrics import Counts, Times

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)


_ENDED = Counts(
    "vlinders_inference_generations",
    "Admitted requests that have ended.",
    ("operation", "served_by", "outcome"),
)
_REFUSED = Counts("vlinders_inference_refused", "Requests that were not admitted.", ("reason",))
_TOKENS = Counts("vlinders_inference_tokens", "Tokens used.", ("served_by", "bucket"))
_ESTIMATED = Counts(
    "vlinders_inference_estimated", "Requests whose tokens were estimated.", ("served_by",)
)
_FAILED = Counts(
    "vlinders_inference_attempts_failed", "Engines that gave no answer.", ("served_by",)
)
_FIRST = Times(
    "vlinders_inference_first_token_seconds", "To the first token.", ("served_by",), _SECONDS
)
_TOTAL = Times("vlinders_inference_seconds", "From admission to the end.", ("served_by",), _SECONDS)
USAGE_WAITING = Gauge(
    "vlinders_inference_usage_waiting", "Records of usage that are not written yet."
)
_OUTCOMES = {
    number: name.removeprefix("OUTCOME_").lower() for name, number in UsageRecorded.Outcome.items()
}


class _Engine:
    """What is counted of one engine at each request."""

    def __init__(self, by: str) -> None:
        self.input = _TOKENS.of((by, "input"))
        self.cached = _TOKENS.of((by, "cached_input"))
        self.output = _TOKENS.of((by, "output"))
        self.first = _FIRST.of((by,))
        self.total = _TOTAL.of((by,))


_engine = cache(_Engine)


def ended(event: UsageRecorded) -> None:
    """Counts a request by its record."""
    by = event.served_by or "nobody"
    engine = _engine(by)
    _ENDED.add((event.operation, by, _OUTCOMES[event.outcome]))
    engine.input.value += event.input_tokens
    engine.cached.value += event.cached_input_tokens
    engine.output.value += event.output_tokens
    if event.estimated:
        _ESTIMATED.add((by,))
    if first := event.first_token_ms:
        engine.first.observe(first / 1000)
    engine.total.observe(event.total_ms / 1000)


def refused(reason: str) -> None:
    """Counts a request that was not admitted."""
    _REFUSED.add((reason,))


def attempt_failed(served_by: str) -> None:
    _FAILED.add((served_by,))
