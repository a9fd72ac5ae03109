"""Own workers: picked by the scheduler, stopped when a client leaves, charged by their count."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from vlinders.gpu_scheduler.v1 import picks_pb2 as picks
from vlinders_inference import workers

pytestmark = pytest.mark.anyio

CHAT = {"model": "own", "messages": [{"role": "user", "content": "count"}], "max_tokens": 50}


def event(body: Any) -> bytes:
    return b"data: %s\n\n" % json.dumps(body).encode()


def delta(content: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]})


WHOLE = [
    delta("one"),
    event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    b"data: [DONE]\n\n",
]


def used(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


async def test_a_worker_gets_its_ticket_and_its_own_name_of_the_model(stage: Any) -> None:
    answer = await stage.ask(CHAT)

    assert answer.json["model"] == "own"
    (headers,), (body,) = stage.worker.headers, stage.worker.bodies
    assert headers["vlinders-ticket"] == "ticket-1"
    assert headers["x-request-id"].startswith("req_")
    assert body["model"] == "tiny"
    record = await stage.record()
    assert (record.served_by, record.outcome) == ("worker", record.OUTCOME_COMPLETED)
    assert stage.scheduler.asked[0].request_id == record.request_id
    await stage.until(lambda: stage.scheduler.finished == [record.request_id])


async def test_a_worker_that_fails_before_the_first_byte_is_replaced_by_another(
    stage: Any,
) -> None:
    stage.scheduler.targets.append(
        picks.Target(worker_id="w2", address=stage.spare.url, slot_id="s", ticket="ticket-2")
    )
    stage.worker.script.append(stage.tells({}, status=503))

    answer = await stage.ask(CHAT | {"stream": True})

    assert answer.text == "one two 三"
    assert stage.spare.headers[0]["vlinders-ticket"] == "ticket-2"
    assert list(stage.scheduler.asked[1].excluded_worker_ids) == ["w1"]


async def test_nobody_to_ask_is_no_capacity_and_costs_nothing(stage: Any) -> None:
    stage.bank.balance = 10_000  # some three requests
    stage.scheduler.targets.clear()

    for _ in range(10):
        answer = await stage.ask(CHAT)

        assert answer.failure.reason == "NO_CAPACITY"
        assert answer.failure.retry_after is not None


async def test_when_to_come_again_is_what_the_scheduler_says(stage: Any) -> None:
    stage.scheduler.targets.clear()
    stage.scheduler.wait.seconds = 7

    answer = await stage.ask(CHAT)

    assert answer.failure.retry_after == timedelta(seconds=7)


@pytest.mark.parametrize("status", [409, 503])
async def test_a_worker_that_declines_where_nobody_else_is_left_is_no_capacity(
    stage: Any, status: int
) -> None:
    """It has begun nothing: whoever asks later is served, so it is no failure of an engine."""
    stage.worker.script.append(stage.tells({}, status=status))

    answer = await stage.ask(CHAT | {"stream": True})

    assert answer.failure.reason == "NO_CAPACITY"
    assert answer.failure.retry_after is not None
    assert [len(ask.excluded_worker_ids) for ask in stage.scheduler.asked] == [0, 1]
    assert [ask.declined for ask in stage.scheduler.asked] == [False, True]


async def test_what_nobody_began_is_not_written_down(stage: Any) -> None:
    """Else those that are refused would cost the database as much as those that are served."""
    targets = list(stage.scheduler.targets)
    stage.scheduler.targets.clear()
    await stage.ask(CHAT)
    stage.scheduler.targets.extend(targets)

    await stage.ask(CHAT)

    record = await stage.record()
    assert record.outcome == record.OUTCOME_COMPLETED


async def test_who_leaves_a_stream_pays_what_the_engine_counted(stage: Any) -> None:
    async def until_cancelled(request: web.Request, body: Any) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(delta("one"))
        await stage.worker.cancelled.get()
        await response.write(delta("two") + event({"choices": [], "usage": used(9, 7)}))
        await response.write(b"data: [DONE]\n\n")
        return response

    stage.worker.script.append(until_cancelled)
    exchange = stage.open(CHAT | {"stream": True})
    await exchange.data()
    exchange.cancel()

    record = await stage.record()

    assert record.outcome == record.OUTCOME_CANCELLED
    assert (record.input_tokens, record.output_tokens, record.estimated) == (9, 7, False)
    assert record.charged_nanos == 9 * 10 + 7 * 30


async def test_who_leaves_before_the_answer_pays_what_the_engine_counted(stage: Any) -> None:
    async def until_cancelled(request: web.Request, body: Any) -> web.StreamResponse:
        begun.set()
        await stage.worker.cancelled.get()
        return web.json_response({"choices": [], "usage": used(9, 2)})

    begun = asyncio.Event()
    stage.worker.script.append(until_cancelled)
    exchange = stage.open(CHAT)
    await begun.wait()
    exchange.cancel()

    record = await stage.record()

    assert record.outcome == record.OUTCOME_CANCELLED
    assert (record.input_tokens, record.output_tokens, record.estimated) == (9, 2, False)


async def test_who_leaves_before_embeddings_come_pays_for_the_prompt(stage: Any) -> None:
    async def until_cancelled(request: web.Request, body: Any) -> web.StreamResponse:
        begun.set()
        await stage.worker.cancelled.get()
        return web.Response()

    begun = asyncio.Event()
    stage.worker.script.append(until_cancelled)
    exchange = stage.open({"model": "own-vectors", "input": "x" * 400}, "CreateEmbeddings")
    await begun.wait()
    exchange.cancel()

    record = await stage.record()

    assert record.outcome == record.OUTCOME_CANCELLED
    assert (record.input_tokens, record.output_tokens, record.estimated) == (100, 0, True)
    assert record.charged_nanos == 100 * 10


async def test_a_worker_that_does_not_say_is_charged_by_what_came(stage: Any) -> None:
    async def deaf(request: web.Request, body: Any) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(delta("one") + delta("two"))
        await asyncio.sleep(60)
        return response

    stage.worker.script.append(deaf)
    exchange = stage.open(CHAT | {"stream": True})
    await exchange.data()
    exchange.cancel()

    record = await stage.record()

    assert record.outcome == record.OUTCOME_CANCELLED
    assert (record.output_tokens, record.estimated) == (2, True)
    assert stage.worker.cancelled.get_nowait() == record.request_id


async def test_a_worker_that_dies_in_a_stream_ends_it_with_an_error(stage: Any) -> None:
    async def dies(request: web.Request, body: Any) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(delta("one") + delta("two"))
        request.transport.abort()
        return response

    stage.worker.script.append(dies)

    answer = await stage.ask(CHAT | {"stream": True})

    assert answer.failure.reason == "UPSTREAM_FAILED"
    assert answer.text == "onetwo"
    assert "[DONE]" not in answer.events
    record = await stage.record()
    assert (record.outcome, record.output_tokens) == (record.OUTCOME_FAILED, 2)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suspects are given up sooner than an answer that stands still is."""
    monkeypatch.setattr(workers, "ANSWER_SECONDS", 0.2)


@pytest.mark.usefixtures("hasty")
async def test_a_suspect_that_does_not_answer_ends_its_streams_with_an_error(stage: Any) -> None:
    async def stands_still(request: web.Request, body: Any) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(delta("one") + delta("two"))
        stage.worker.living.clear()
        stage.scheduler.suspect(1)
        await asyncio.sleep(60)
        return response

    stage.worker.script.append(stands_still)

    answer = await stage.ask(CHAT | {"stream": True})

    assert stage.worker.asked_to_live.is_set()
    assert answer.failure.reason == "UPSTREAM_FAILED"
    assert answer.failure.facts["cause"] == "connection lost"
    assert answer.text == "onetwo"
    record = await stage.record()
    assert (record.outcome, record.output_tokens) == (record.OUTCOME_FAILED, 2)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_suspect_has_not_begun_is_asked_of_another(stage: Any, stream: bool) -> None:
    async def stands_still(request: web.Request, body: Any) -> web.StreamResponse:
        stage.worker.living.clear()
        stage.scheduler.suspect(1)
        await asyncio.sleep(60)
        return web.Response()

    stage.scheduler.targets.append(
        picks.Target(worker_id="w2", address=stage.spare.url, slot_id="s", ticket="t", epoch=2)
    )
    stage.worker.script.append(stands_still)

    with capture_logs() as lines:
        answer = await stage.ask(CHAT | {"stream": stream})

    assert answer.failure is None
    causes = [line["cause"] for line in lines if line["event"] == "attempt_failed"]
    assert causes == ["connection failed"]
    record = await stage.record()
    assert (record.outcome, record.output_tokens) == (record.OUTCOME_COMPLETED, 3)


@pytest.mark.usefixtures("hasty")
async def test_a_suspect_that_answers_keeps_what_it_has_begun(stage: Any) -> None:
    async def thinks_hard(request: web.Request, body: Any) -> web.StreamResponse:
        stage.scheduler.suspect(1)
        await stage.worker.asked_to_live.wait()
        await asyncio.sleep(0.1)  # it is heard to live meanwhile
        return await stage.streams(*WHOLE)(request, body)

    stage.worker.script.append(thinks_hard)

    answer = await stage.ask(CHAT | {"stream": True})

    assert answer.failure is None
    assert answer.text == "one"


@pytest.mark.usefixtures("hasty")
async def test_a_suspect_that_says_nothing_but_its_stream_keeps_that(stage: Any) -> None:
    async def goes_on(request: web.Request, body: Any) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(delta("one"))
        stage.worker.living.clear()
        stage.scheduler.suspect(1)
        await stage.worker.asked_to_live.wait()
        for _ in range(round(2 * workers.ANSWER_SECONDS / 0.1)):
            await response.write(delta("one"))
            await asyncio.sleep(0.1)
        for event in WHOLE[1:]:
            await response.write(event)
        return response

    stage.worker.script.append(goes_on)

    assert (await stage.ask(CHAT | {"stream": True})).failure is None


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who falls silent is soon asked, though nobody suspects it."""
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.02)


@pytest.mark.usefixtures("watchful", "hasty")
async def test_a_worker_that_falls_silent_is_given_up_whether_it_is_suspected_or_not(
    stage: Any,
) -> None:
    """Whoever beats irregularly is suspected late, and a scheduler may be away."""

    async def stands_still(request: web.Request, body: Any) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(delta("one") + delta("two"))
        stage.worker.living.clear()
        await asyncio.sleep(60)
        return response

    stage.worker.script.append(stands_still)

    answer = await stage.ask(CHAT | {"stream": True})

    assert answer.failure.reason == "UPSTREAM_FAILED"
    assert answer.failure.facts["cause"] == "connection lost"
    assert answer.text == "onetwo"


@pytest.mark.usefixtures("watchful")
async def test_a_silent_worker_that_lives_is_asked_again_and_keeps_what_it_has_begun(
    stage: Any,
) -> None:
    async def thinks_hard(request: web.Request, body: Any) -> web.StreamResponse:
        for _ in range(2):
            await stage.worker.asked_to_live.wait()
            stage.worker.asked_to_live.clear()
        return await stage.streams(*WHOLE)(request, body)

    stage.worker.script.append(thinks_hard)

    answer = await stage.ask(CHAT | {"stream": True})

    assert answer.failure is None
    assert answer.text == "one"


async def test_the_usage_before_an_engines_error_is_what_is_charged(stage: Any) -> None:
    told = event({"choices": [], "usage": used(9, 5)}) + event({"error": {"message": "oom"}})
    stage.worker.script.append(stage.streams(delta("one"), told))

    answer = await stage.ask(CHAT | {"stream": True})

    assert answer.failure.reason == "UPSTREAM_FAILED"
    assert "oom" not in answer.failure.message
    record = await stage.record()
    assert (record.output_tokens, record.estimated) == (5, False)


async def test_an_estimate_of_the_worker_stays_an_estimate(stage: Any) -> None:
    usage = used(9, 3) | {"estimated": True}
    stage.worker.script.append(stage.tells(stage.completion(usage=usage)))

    await stage.ask(CHAT)

    assert (await stage.record()).estimated
