"""Providers: order, keys, fall-back before the first byte, and what of their failures is told."""

import asyncio
from typing import Any

import pytest

from vlinders_inference.breakers import FAILURES

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "count"}]
ONE = {"model": "m", "messages": MESSAGES, "max_tokens": 50}
TWO = ONE | {"model": "m-two"}


async def test_a_provider_gets_its_key_and_its_own_name_of_the_model(stage: Any) -> None:
    await stage.ask(ONE | {"n": 3, "seed": 7, "temperature": 0.5, "stream": True})

    (headers,), (body,) = stage.provider.headers, stage.provider.bodies
    assert headers["authorization"] == f"Bearer {stage.secret}"
    assert body == {
        "model": "m-2026",
        "messages": MESSAGES,
        "max_tokens": 50,
        "seed": 7,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [302, 401, 404, 429, 500, 503])
async def test_a_failure_falls_back_to_the_next_provider(
    stage: Any, status: int, stream: bool
) -> None:
    elsewhere = {"Location": f"{stage.worker.url}/v1/chat/completions"}
    stage.provider.script.append(stage.tells({"error": stage.secret}, status, **elsewhere))

    answer = await stage.ask(TWO | {"stream": stream})

    assert answer.failure is None
    assert (await stage.record()).served_by == "spare"
    assert stage.worker.bodies == []


async def test_a_stream_that_fails_with_its_first_event_falls_back(stage: Any) -> None:
    stage.provider.script.append(stage.streams(b'data: {"error": {"message": "busy"}}\n\n'))

    answer = await stage.ask(TWO | {"stream": True})

    assert answer.text == "one two 三"
    assert (await stage.record()).served_by == "spare"


async def test_nothing_is_replayed_after_the_first_byte(stage: Any) -> None:
    stage.provider.script.append(stage.streams(stage.chunk({"content": "one"})))

    answer = await stage.ask(TWO | {"stream": True})

    assert (answer.failure.reason, answer.text) == ("UPSTREAM_FAILED", "one")
    assert stage.spare.bodies == []


async def test_a_provider_that_is_silent_is_given_up(stage: Any) -> None:
    async def silent(request: Any, body: Any) -> Any:
        await asyncio.sleep(60)

    stage.provider.script.append(silent)

    answer = await stage.ask(TWO)

    assert answer.failure is None
    assert (await stage.record()).served_by == "spare"


async def test_a_provider_that_cannot_be_reached_is_passed_over(stage: Any) -> None:
    await stage.provider.stop()

    answer = await stage.ask(TWO)

    assert answer.failure is None
    assert (await stage.record()).served_by == "spare"


async def test_a_connection_that_was_closed_meanwhile_is_replaced(stage: Any) -> None:
    await stage.ask(ONE)
    await stage.provider.hang_up()

    assert (await stage.ask(ONE)).failure is None


async def test_a_refusal_of_the_request_is_told_without_the_providers_words(stage: Any) -> None:
    error = {"message": f"bad {stage.secret}", "code": "context_length_exceeded"}
    stage.provider.script.append(stage.tells({"error": error}, status=400))

    answer = await stage.ask(TWO)

    assert answer.failure.reason == "UPSTREAM_REFUSED"
    assert answer.failure.facts["upstream_code"] == "context_length_exceeded"
    assert stage.secret not in str(answer.failure)
    assert stage.spare.bodies == []
    assert (await stage.record()).charged_nanos == 0


async def test_only_known_codes_of_a_refusal_are_told(stage: Any) -> None:
    stage.provider.script.append(stage.tells({"error": {"code": stage.secret}}, status=422))

    answer = await stage.ask(ONE)

    assert answer.failure.facts["upstream_code"] == "unspecified"


async def test_when_all_fail_the_failure_says_so_and_costs_nothing(stage: Any) -> None:
    for engine in (stage.provider, stage.spare):
        engine.script.append(stage.tells({"error": stage.secret}, status=500))

    answer = await stage.ask(TWO)

    assert answer.failure.reason == "UPSTREAM_FAILED"
    assert stage.secret not in str(answer.failure)
    record = await stage.record()
    assert (record.charged_nanos, record.outcome) == (0, record.OUTCOME_FAILED)


async def test_keys_take_turns(stage: Any) -> None:
    for _ in range(4):
        await stage.ask(ONE | {"model": "m-keys"})

    keys = [headers["authorization"] for headers in stage.provider.headers]
    assert sorted(keys) == ["Bearer sk-a"] * 2 + ["Bearer sk-b"] * 2


async def test_a_key_that_is_used_too_much_rests_while_the_other_serves(stage: Any) -> None:
    stage.provider.script.append(stage.tells({}, 429, **{"Retry-After": "30"}))
    for _ in range(4):
        assert (await stage.ask(ONE | {"model": "m-keys"})).failure is None

    first, *others = [headers["authorization"] for headers in stage.provider.headers]
    assert first not in others


async def test_a_provider_that_keeps_failing_is_not_asked_any_more(stage: Any) -> None:
    stage.provider.script.extend([stage.tells({}, 500)] * 20)
    for _ in range(FAILURES + 3):
        assert (await stage.ask(TWO)).failure is None

    assert len(stage.provider.bodies) == FAILURES
