"""What is measured of generations: the pipe passes the interceptors by, so this counts them."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from itertools import accumulate

from prometheus_client import REGISTRY, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from vlinders.inference.v1.events_pb2 import UsageRecorded

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)


class _Counts(Collector):
    """A family of counters that are plain numbers until somebody scrapes them.

    Counting costs a tenth of what a counter of the library does, which takes a lock for each.
    """

    def __init__(self, name: str, text: str, labels: list[str]) -> None:
        self._family = name, text, labels
        self._values: defaultdict[tuple[str, ...], int] = defaultdict(int)
        REGISTRY.register(self)

    def add(self, labels: tuple[str, ...], number: int = 1) -> None:
        self._values[labels] += number

    def collect(self) -> Iterable[Metric]:
        name, text, labels = self._family
        family = CounterMetricFamily(name, text, labels=labels)
        for row, value in dict(self._values).items():
            family.add_metric(row, value)
        yield family


class _Times(Collector):
    """A family of histograms by who served, kept as `_Counts` are and for the same reason."""

    def __init__(self, name: str, text: str) -> None:
        self._family = name, text, ["served_by"]
        self._numbers: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(_SECONDS) + 1))
        self._sums: defaultdict[str, float] = defaultdict(float)
        REGISTRY.register(self)

    def observe(self, served_by: str, seconds: float) -> None:
        self._numbers[served_by][bisect_left(_SECONDS, seconds)] += 1
        self._sums[served_by] += seconds

    def collect(self) -> Iterable[Metric]:
        name, text, labels = self._family
        family = HistogramMetricFamily(name, text, labels=labels)
        bounds = [*map(floatToGoString, _SECONDS), "+Inf"]
        for served_by, numbers in dict(self._numbers).items():
            buckets = list(zip(bounds, accumulate(numbers), strict=True))
            family.add_metric([served_by], buckets, self._sums[served_by])
        yield family


_ENDED = _Counts(
    "vlinders_inference_generations",
    "Admitted requests that have ended.",
    ["operation", "served_by", "outcome"],
)
_REFUSED = _Counts("vlinders_inference_refused", "Requests that were not admitted.", ["reason"])
_TOKENS = _Counts("vlinders_inference_tokens", "Tokens used.", ["served_by", "bucket"])
_ESTIMATED = _Counts(
    "vlinders_inference_estimated", "Requests whose tokens were estimated.", ["served_by"]
)
_FAILED = _Counts(
    "vlinders_inference_attempts_failed", "Engines that gave no answer.", ["served_by"]
)
_FIRST = _Times("vlinders_inference_first_token_seconds", "To the first token.")
_TOTAL = _Times("vlinders_inference_seconds", "From admission to the end.")
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
        _FIRST.observe(by, event.first_token_ms / 1000)
    _TOTAL.observe(by, event.total_ms / 1000)


def refused(reason: str) -> None:
    """Counts a request that was not admitted."""
    _REFUSED.add((reason,))


def attempt_failed(served_by: str) -> None:
    _FAILED.add((served_by,))
