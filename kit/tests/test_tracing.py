"""Which requests are traced, where their spans stand, and what is told of the others."""

from collections.abc import AsyncIterator, Iterator

import pytest

from vlinders_kit import trace_ids, tracing
from vlinders_kit.ids import new_id
from vlinders_kit.testing.spans import Collector, collector

THEIRS = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def sink() -> Iterator[Collector]:
    with collector() as found:
        yield found


@pytest.fixture
async def exporting(sink: Collector) -> AsyncIterator[None]:
    tracing.export("vlinders.test", sink.endpoint, sampled=1.0, slow=5.0)
    yield
    await tracing.close()


def parent(kept: bool) -> str:
    return f"00-{THEIRS}-b7ad6b7169203331-0{int(kept)}"


def test_without_an_endpoint_no_request_is_traced() -> None:
    tracing.export("vlinders.test", None, sampled=1.0)
    assert tracing.begin(new_id("req")) is None
    assert not tracing.received(parent(kept=True), "x").kept
    assert not tracing.worth(failed=True, seconds=100)
    assert tracing.outgoing() == ()


async def test_the_id_of_a_trace_is_that_of_its_request(sink: Collector, exporting: None) -> None:
    request_id = new_id("req")
    with tracing.begin(request_id):  # type: ignore[union-attr]
        assert tracing.trace_id() == trace_ids.trace_of(request_id)
    await tracing.close()
    (span,) = sink.spans
    assert span.trace_id == trace_ids.trace_of(request_id)
    assert trace_ids.request_of(span.trace_id) == request_id
    assert span.parent == ""


async def test_what_a_trusted_caller_keeps_is_continued(sink: Collector, exporting: None) -> None:
    with tracing.begin(new_id("req"), parent(kept=True), trusted=True):  # type: ignore[union-attr]
        pass
    await tracing.close()
    (span,) = sink.spans
    assert (span.trace_id, span.parent) == (THEIRS, "b7ad6b7169203331")


async def test_what_a_trusted_caller_does_not_keep_is_not_kept(exporting: None) -> None:
    assert tracing.begin(new_id("req"), parent(kept=False), trusted=True) is None


async def test_a_strangers_trace_is_linked_to_and_decides_nothing(
    sink: Collector, exporting: None
) -> None:
    request_id = new_id("req")
    with tracing.begin(request_id, parent(kept=False)):  # type: ignore[union-attr]
        pass
    await tracing.close()
    (span,) = sink.spans
    assert span.trace_id == trace_ids.trace_of(request_id)
    assert span.links == (THEIRS,)


async def test_a_strangers_trace_cannot_have_itself_kept(sink: Collector) -> None:
    tracing.export("vlinders.test", sink.endpoint, sampled=0.0)
    assert tracing.begin(new_id("req"), parent(kept=True)) is None
    await tracing.close()


async def test_steps_stand_below_what_runs_and_tell_why_they_fail(
    sink: Collector, exporting: None
) -> None:
    with tracing.begin(new_id("req")) as first:  # type: ignore[union-attr]

        def fail() -> None:
            with tracing.step("inner"):
                assert dict(tracing.outgoing())["traceparent"] != first.traceparent
                raise KeyError("text of a client")

        with pytest.raises(KeyError):
            fail()
        assert dict(tracing.outgoing())["traceparent"] == first.traceparent
    assert tracing.running() is None
    await tracing.close()
    inner, outer = sink.spans
    assert inner.parent == outer.id
    assert inner.failed
    assert inner.attributes["error.type"] == "KeyError"
    assert not any(b"text of a client" in raw for raw in sink.raw)


async def test_another_part_continues_what_it_is_told(sink: Collector, exporting: None) -> None:
    with tracing.begin(new_id("req")) as first:  # type: ignore[union-attr]
        traceparent = first.traceparent
    with tracing.received(traceparent, "there"):
        pass
    await tracing.close()
    here, there = sink.spans
    assert (there.trace_id, there.parent) == (here.trace_id, here.id)


@pytest.mark.parametrize(
    "nonsense", ["", "x", parent(kept=True)[:-1], f"00-{'0' * 32}-b7ad6b7169203331-01"]
)
async def test_nonsense_is_no_trace(nonsense: str, exporting: None) -> None:
    assert not tracing.received(nonsense, "x").kept


async def test_what_fails_or_is_slow_is_told_afterwards_in_one_tree(sink: Collector) -> None:
    tracing.export("vlinders.test", sink.endpoint, sampled=0.0, slow=5.0)
    request_id = new_id("req")
    assert tracing.begin(request_id) is None
    assert not tracing.worth(failed=False, seconds=4.9)
    assert tracing.worth(failed=False, seconds=5.1)
    assert tracing.worth(failed=True, seconds=0.0)
    for first in (False, True):
        tracing.afterwards(
            "x", request_id, seconds=2.0, attributes={}, error="500" if first else None, first=first
        )
    await tracing.close()
    inner, outer = sink.spans
    assert {inner.trace_id, outer.trace_id} == {trace_ids.trace_of(request_id)}
    assert (outer.parent, inner.parent) == ("", outer.id)
    assert (outer.failed, inner.failed) == (True, False)
    assert outer.nanos == 2_000_000_000


async def test_a_collector_that_is_away_holds_nobody_up() -> None:
    tracing.export("vlinders.test", "http://127.0.0.1:1", sampled=1.0)
    with tracing.begin(new_id("req")):  # type: ignore[union-attr]
        pass
    await tracing.close()


def test_only_ids_of_requests_name_traces() -> None:
    assert trace_ids.trace_of("r1") == ""
    assert trace_ids.request_of("no trace") is None
