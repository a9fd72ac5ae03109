"""What is measured of generations, as a scrape finds it."""

from prometheus_client import REGISTRY

from vlinders.inference.v1.events_pb2 import UsageRecorded
from vlinders_inference import measures


def found(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_request_that_ended_is_counted_and_timed() -> None:
    by = "of-this-test"
    record = UsageRecorded(
        operation="CreateChatCompletion",
        served_by=by,
        outcome=UsageRecorded.OUTCOME_COMPLETED,
        input_tokens=7,
        output_tokens=3,
        first_token_ms=25,
        total_ms=700_000,
    )

    measures.ended(record)
    measures.ended(record)

    ended = {"operation": "CreateChatCompletion", "served_by": by, "outcome": "completed"}
    assert found("vlinders_inference_generations_total", **ended) == 2
    assert found("vlinders_inference_tokens_total", served_by=by, bucket="output") == 6
    first = "vlinders_inference_first_token_seconds"
    assert found(f"{first}_bucket", served_by=by, le="0.01") == 0
    assert found(f"{first}_bucket", served_by=by, le="0.025") == 2
    assert found(f"{first}_bucket", served_by=by, le="+Inf") == 2
    total = "vlinders_inference_seconds"
    assert found(f"{total}_bucket", served_by=by, le="500.0") == 0
    assert found(f"{total}_count", served_by=by) == 2
    assert found(f"{total}_sum", served_by=by) == 1400
