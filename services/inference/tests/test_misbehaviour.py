"""Engines that break the protocol: bounded, told as errors, charged by what came."""

import json
from typing import Any

import pytest

pytestmark = pytest.mark.anyio

CHAT = {"model": "m", "messages": [{"role": "user", "content": "count"}], "max_tokens": 50}
STREAM = CHAT | {"stream": True}


async def failing(stage: Any, *pieces: bytes) -> Any:
    """The record of a stream of these pieces, which fails."""
    stage.provider.script.append(stage.streams(*pieces))
    answer = await stage.ask(STREAM)
    assert answer.failure.reason == "UPSTREAM_FAILED"
    assert "[DONE]" not in answer.body.decode()
    record = await stage.record()
    assert record.outcome == record.OUTCOME_FAILED
    return record


async def test_a_stream_that_ends_early_is_charged_by_its_events(stage: Any) -> None:
    chunks = [stage.chunk({"content": word}) for word in ("a", "b", "c")]

    record = await failing(stage, *chunks)

    assert (record.output_tokens, record.estimated) == (3, True)
    assert record.input_tokens > 0


@pytest.mark.parametrize(
    "broken",
    [
        b"data: {not json}\n\n",
        b'data: {"choices": 7}\n\n',
        b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n',
        b'data: {"choices": [{"delta": {"content": ' + b"[" * 5000 + b"\n\n",
        b"data: [DONE]\n\n",
        b'data: {"error": {"message": "out of memory"}}\n\n',
    ],
)
async def test_an_event_that_is_none_ends_the_stream(stage: Any, broken: bytes) -> None:
    record = await failing(stage, stage.chunk({"content": "a"}), broken)

    assert record.output_tokens == 1


async def test_a_line_without_end_is_cut_off(stage: Any) -> None:
    line = [b"x" * (1 << 20)] * 4

    record = await failing(stage, stage.chunk({"content": "a"}), b"data: ", *line)

    assert record.output_tokens == 1


async def test_a_stream_without_end_is_cut_off_and_costs_no_more_than_its_bound(
    stage: Any,
) -> None:
    record = await failing(stage, *[stage.chunk({"content": "a"}) * 100] * 20)

    assert record.output_tokens == 50
    assert record.charged_nanos <= record.ceiling_nanos


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5, "completion_tokens": -5},
        {"prompt_tokens": 10**18, "completion_tokens": 10**18},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": "9", "completion_tokens": 1.5},
        {"prompt_tokens": True},
        [],
    ],
)
async def test_usage_that_cannot_be_is_bounded_and_marked(
    stage: Any, usage: Any, stream: bool
) -> None:
    if stream:
        told = b"data: %s\n\n" % json.dumps({"choices": [], "usage": usage}).encode()
        pieces = [stage.chunk({"content": "a"}), stage.chunk({}, "stop"), told, b"data: [DONE]\n\n"]
        stage.provider.script.append(stage.streams(*pieces))
    else:
        stage.provider.script.append(stage.tells(stage.completion("a", usage=usage)))

    answer = await stage.ask(CHAT | {"stream": stream})

    assert answer.failure is None
    record = await stage.record()
    assert record.estimated
    assert 0 < record.input_tokens <= 8192
    assert 0 < record.output_tokens <= 50
    assert 0 < record.charged_nanos <= record.ceiling_nanos


async def test_a_charge_never_exceeds_the_ceiling(stage: Any) -> None:
    usage = {"prompt_tokens": 8000, "completion_tokens": 50}
    stage.provider.script.append(stage.tells(stage.completion(usage=usage)))

    await stage.ask(CHAT)

    record = await stage.record()
    assert record.input_tokens == 8000
    assert record.charged_nanos == record.ceiling_nanos


async def test_cached_tokens_are_a_bucket_of_their_own(stage: Any) -> None:
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 20},
    }
    stage.provider.script.append(stage.tells(stage.completion(usage=usage)))

    answer = await stage.ask(CHAT)

    record = await stage.record()
    assert (record.input_tokens, record.cached_input_tokens) == (10, 20)
    assert record.charged_nanos == 10 * 10 + 20 * 4 + 2 * 30
    assert answer.json["usage"]["prompt_tokens"] == 30


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"error": {"message": "x"}}', b"{" * 5000],
)
async def test_an_answer_that_is_none_is_a_failure_and_costs_nothing(
    stage: Any, body: bytes
) -> None:
    stage.provider.script.append(stage.streams(body))

    answer = await stage.ask(CHAT)

    assert (answer.failure.reason, answer.body) == ("UPSTREAM_FAILED", b"")
    assert (await stage.record()).charged_nanos == 0


async def test_an_answer_that_is_compressed_is_not_read(stage: Any) -> None:
    stage.provider.script.append(stage.tells(stage.completion(), **{"Content-Encoding": "br"}))

    assert (await stage.ask(CHAT)).failure.reason == "UPSTREAM_FAILED"


async def test_what_is_unusual_but_allowed_is_understood(stage: Any) -> None:
    stage.provider.script.append(
        stage.streams(
            b": a comment\r\n\r\n",
            b'event: message\r\ndata: {"choices":[{"index":0,"finish_reason": null,\r\n',
            b'data: "delta":{"role":"assistant","content":"a"}}]}\r\n\r\n',
            b'data:{"choices":[{"delta":{"role":"assistant","content":"b"}}],"usage":null}\r',
            b'\n\r\ndata: {"choices":[{"delta":{"content":"c"},"finish_reason":"eos"}],',
            b'"usage":{"prompt_tokens":9,"completion_tokens":3}}\n\n',
        )
    )

    answer = await stage.ask(STREAM)

    assert answer.failure is None
    first, second, third, last, done = answer.events
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "a"}
    assert [row["choices"][0]["delta"] for row in (second, third, last)] == [
        {"content": "b"},
        {"content": "c"},
        {},
    ]
    assert (last["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")
    record = await stage.record()
    assert (record.input_tokens, record.output_tokens, record.estimated) == (9, 3, False)
