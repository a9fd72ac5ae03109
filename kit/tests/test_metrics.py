"""Metrics: counted without locks, asked for by scrapes, served from the part's own event loop."""

import asyncio
import contextlib

import httpx
import pytest
from prometheus_client import REGISTRY

from vlinders_kit import metrics
from vlinders_kit.embedded.programs import free_port
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


async def test_metrics_are_served_and_nothing_else() -> None:
    port = free_port()
    async with (
        metrics.serving("127.0.0.1", port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        found = await http.get("/metrics")
        assert found.headers["content-type"] == metrics.CONTENT_TYPE
        assert "process_resident_memory_bytes" in found.text
        assert (await http.get("/secrets")).status_code == 404


async def test_nonsense_at_the_metrics_port_ends_its_connection_alone() -> None:
    port = free_port()
    async with metrics.serving("127.0.0.1", port):
        for nonsense, answer in ((b"\r\n\r\n", b"HTTP/1.1 404"), (b"x" * 100_000, b"")):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(nonsense)
            with contextlib.suppress(ConnectionError):
                assert (await reader.read()).startswith(answer)
            writer.close()
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{port}/metrics")).status_code == 200
