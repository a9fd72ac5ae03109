"""Chat completions from a provider, whole and streamed, over the pipe."""

from typing import Any

import pytest

pytestmark = pytest.mark.anyio

CHAT = {"model": "m", "messages": [{"role": "user", "content": "count"}], "max_tokens": 50}


async def test_an_answer_has_our_id_and_the_model_as_asked(stage: Any) -> None:
    answer = await stage.ask(CHAT)

    assert answer.failure is None
    assert answer.content_type == "application/json"
    assert answer.json["id"].startswith("chatcmpl_")
    assert answer.json["model"] == "m"
    assert answer.json["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "one two 三"},
            "finish_reason": "stop",
        }
    ]
    assert answer.json["usage"] == {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


async def test_a_stream_begins_with_the_role_and_ends_with_done(stage: Any) -> None:
    answer = await stage.ask(CHAT | {"stream": True})

    assert answer.content_type == "text/event-stream"
    *events, done = answer.events
    assert done == "[DONE]"
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "one"},
        {"content": " two"},
        {"content": " 三"},
        {},
    ]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * 4 + ["stop"]
    assert len({(event["id"], event["created"], event["model"]) for event in events}) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_recorded_once_before_its_end_is_told(stage: Any, stream: bool) -> None:
    await stage.ask(CHAT | {"stream": stream})

    record = await stage.record()

    assert (record.input_tokens, record.cached_input_tokens, record.output_tokens) == (9, 0, 3)
    assert record.charged_nanos == 9 * 10 + 3 * 30
    assert record.ceiling_nanos >= record.charged_nanos
    assert record.outcome == record.OUTCOME_COMPLETED
    assert (record.served_by, record.price_version, record.stream) == ("mock", "price_1", stream)
    assert record.tenant_id == stage.caller.tenant_id
    assert record.lease_id in stage.bank.leases
    assert not record.estimated
