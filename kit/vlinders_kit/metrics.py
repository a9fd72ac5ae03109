"""Metrics that cost nothing until somebody scrapes them.

A gauge is a question that is asked of what runs at the moment of the scrape; a count is a plain
number, since a counter of the library takes a lock each time.
"""

import asyncio
import contextlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate

from prometheus_client import REGISTRY, Histogram, disable_created_metrics
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

disable_created_metrics()  # type: ignore[no-untyped-call] # they double the series, and say what `process_start_time_seconds` says

Labels = tuple[str, ...]
Row = tuple[str | int, ...]
"""The values of labels."""

Reading = float | Mapping[Labels, float]

LOOKED_AT_SECONDS = 0.5
"""How often the event loop is looked at."""

_LAG = Histogram(
    "vlinders_loop_lag_seconds",
    "How late the event loop comes to what is due.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)


class Counts(Collector):
    """A family of counters, at a tenth of the price of the library's own."""

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        self._family = name, text, labels
        self._counts: defaultdict[Row, Count] = defaultdict(Count)
        if not labels:
            self.of()  # told from the first scrape on, so that its rate is known
        REGISTRY.register(self)

    def of(self, labels: Row = ()) -> "Count":
        """The one with these values of the labels, for who counts a lot and keeps it."""
        return self._counts[labels]

    def add(self, labels: Row = (), number: int = 1) -> None:
        self._counts[labels].value += number

    def collect(self) -> Iterable[Metric]:
        name, text, labels = self._family
        family = CounterMetricFamily(name, text, labels=labels)
        for row, count in dict(self._counts).items():
            family.add_metric(list(map(str, row)), count.value)
        yield family


class Count:
    """One counter of a family."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Times(Collector):
    """A family of histograms of seconds, kept as `Counts` are."""

    def __init__(self, name: str, text: str, labels: Labels, bounds: Sequence[float]) -> None:
        self._family = name, text, labels
        self._bounds = bounds
        self._times: defaultdict[Row, Time] = defaultdict(lambda: Time(bounds))
        REGISTRY.register(self)

    def of(self, labels: Row) -> "Time":
        """As with `Counts`."""
        return self._times[labels]

    def observe(self, labels: Row, seconds: float) -> None:
        self._times[labels].observe(seconds)

    def collect(self) -> Iterable[Metric]:
        name, text, labels = self._family
        family = HistogramMetricFamily(name, text, labels=labels)
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for row, time in dict(self._times).items():
            buckets = list(zip(bounds, accumulate(time.numbers), strict=True))
            family.add_metric(list(map(str, row)), buckets, time.sum)
        yield family


class Time:
    """One histogram of a family."""

    __slots__ = ("_bounds", "numbers", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.numbers = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.numbers[bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds


class _Gauges(Collector):
    """All gauges of the process."""

    def __init__(self) -> None:
        self._gauges: dict[str, tuple[str, Labels, Callable[[], Reading]]] = {}
        REGISTRY.register(self)

    def put(self, name: str, text: str, labels: Labels, read: Callable[[], Reading]) -> None:
        self._gauges[name] = text, labels, read

    def collect(self) -> Iterable[Metric]:
        for name, (text, labels, read) in list(self._gauges.items()):
            family = GaugeMetricFamily(name, text, labels=labels)
            told = read()
            rows = told if isinstance(told, Mapping) else {(): told}
            for row, value in rows.items():
                family.add_metric(row, value)
            yield family


_gauges = _Gauges()


def gauge(name: str, text: str, read: Callable[[], Reading], labels: Labels = ()) -> None:
    """Has every scrape ask `read`, from the event loop's thread; asked anew, the last one counts.

    With `labels`, `read` answers a mapping of their values to numbers.
    """
    _gauges.put(name, text, labels, read)


def told_of(service: str) -> None:
    """Says which part of which version this process is, as `vlinders.auth`."""
    with contextlib.suppress(PackageNotFoundError):
        release = version(service.replace(".", "-").replace("_", "-"))
        gauge(
            "vlinders_build_info",
            "Always 1: what runs here.",
            lambda: {(service, release): 1.0},
            ("service", "version"),
        )


async def watch_loop() -> None:
    """Measures the event loop until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LOOKED_AT_SECONDS
        await asyncio.sleep(LOOKED_AT_SECONDS)
        _LAG.observe(max(0.0, loop.time() - due))
