"""Metrics: counted without locks, asked for by scrapes."""

import pytest
from prometheus_client import REGISTRY

from vlinders_kit import metrics
from vlinders_kit.metrics import Counts, Times


def test_counts_and_times_are_told_as_the_librarys_own() -> None:
    counts = Counts("vlinders_test_seen", "Seen.", ("status",))
    times = Times("vlinders_test_seconds", "Taken.", ("by",), (0.1, 1))
    counts.add((200,), 2)
    for seconds in (0.1, 0.5, 7):
        times.observe(("me",), seconds)
    value = REGISTRY.get_sample_value
    assert value("vlinders_test_seen_total", {"status": "200"}) == 2
    buckets = [
        value("vlinders_test_seconds_bucket", {"by": "me", "le": le})
        for le in ("0.1", "1.0", "+Inf")
    ]
    assert buckets == [1, 2, 3]
    assert value("vlinders_test_seconds_sum", {"by": "me"}) == pytest.approx(7.6)
    for family in (counts, times):
        REGISTRY.unregister(family)


def test_a_gauge_is_asked_at_each_scrape_and_the_last_one_counts() -> None:
    told = {("a",): 1.0}
    metrics.gauge("vlinders_test_gauge", "Nothing.", lambda: 0)
    metrics.gauge("vlinders_test_gauge", "Told.", lambda: told, ("who",))
    assert REGISTRY.get_sample_value("vlinders_test_gauge", {"who": "a"}) == 1
    told["a",] = 2
    assert REGISTRY.get_sample_value("vlinders_test_gauge", {"who": "a"}) == 2
    metrics.gauge("vlinders_test_gauge", "Nothing.", dict, ("who",))


def test_one_of_a_family_that_is_kept_counts_in_it() -> None:
    counts = Counts("vlinders_test_kept", "Kept.", ("status",))
    times = Times("vlinders_test_kept_seconds", "Taken.", ("by",), (0.1, 1))
    counts.of(("ok",)).value += 3
    counts.add(("ok",))
    times.of(("me",)).observe(0.5)
    times.observe(("me",), 0.5)
    value = REGISTRY.get_sample_value
    assert value("vlinders_test_kept_total", {"status": "ok"}) == 4
    assert value("vlinders_test_kept_seconds_count", {"by": "me"}) == 2
    for family in (counts, times):
        REGISTRY.unregister(family)
