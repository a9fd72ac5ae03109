"""What is measured of generations: the pipe passes the interceptors by, so this counts them."""

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


def ended(event: UsageRecorded) -> None:
    """Counts a request by its record."""
    by = event.served_by or "nobody"
    _ENDED.add((event.operation, by, _OUTCOMES[event.outcome]))
    _TOKENS.add((by, "input"), event.input_tokens)
    _TOKENS.add((by, "cached_input"), event.cached_input_tokens)
    _TOKENS.add((by, "output"), event.output_tokens)
    if event.estimated:
        _ESTIMATED.add((by,))
    if event.first_token_ms:
        _FIRST.observe((by,), event.first_token_ms / 1000)
    _TOTAL.observe((by,), event.total_ms / 1000)


def refused(reason: str) -> None:
    """Counts a request that was not admitted."""
    _REFUSED.add((reason,))


def attempt_failed(served_by: str) -> None:
    _FAILED.add((served_by,))
