"""Clients that leave providers, and replicas that end: what was produced is charged, once."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from vlinders.inference.v1 import generations_pb2 as pb
from vlinders.inference.v1.generations_pb2_grpc import GenerationServiceStub

pytestmark = pytest.mark.anyio

CHAT = {"model": "m", "messages": [{"role": "user", "content": "count to ten"}], "max_tokens": 50}


def endless(stage: Any, closed: asyncio.Event) -> Any:
    """A stream of two tokens and then silence, which notes that it was closed."""

    async def behave(request: web.Request, body: Any) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(stage.chunk({"content": "one"}) + stage.chunk({"content": "two"}))
        try:
            await asyncio.sleep(60)
        finally:
            closed.set()
        return response

    return behave


async def test_who_leaves_a_stream_pays_for_what_came(stage: Any) -> None:
    closed = asyncio.Event()
    stage.provider.script.append(endless(stage, closed))
    exchange = stage.open(CHAT | {"stream": True})
    await exchange.data()
    exchange.cancel()

    record = await stage.record()

    assert record.outcome == record.OUTCOME_CANCELLED
    assert (record.output_tokens, record.estimated) == (2, True)
    assert record.input_tokens > 0
    await asyncio.wait_for(closed.wait(), 1)


async def test_who_leaves_a_whole_answer_that_is_streamed_to_us_pays_for_what_came(
    stage: Any,
) -> None:
    closed = asyncio.Event()
    stage.provider.script.append(endless(stage, closed))
    exchange = stage.open(CHAT | {"model": "m-streamed"})
    await stage.until(lambda: bool(stage.provider.bodies))
    await asyncio.sleep(0.2)  # both tokens have come; nobody is told
    exchange.cancel()

    record = await stage.record()

    assert record.outcome == record.OUTCOME_CANCELLED
    assert (record.output_tokens, record.estimated) == (2, True)
    await asyncio.wait_for(closed.wait(), 1)


async def test_who_wants_an_answer_whole_gets_what_its_provider_streams(stage: Any) -> None:
    streamed = await stage.ask(CHAT | {"model": "m-streamed"})
    whole = await stage.ask(CHAT)

    own = {name: streamed.json[name] for name in ("id", "created", "model")}
    assert streamed.json == whole.json | own
    assert [body.get("stream", False) for body in stage.provider.bodies] == [True, False]
    first, second = await stage.records(2)
    assert (first.output_tokens, first.estimated) == (second.output_tokens, second.estimated)


async def test_who_leaves_a_worker_before_its_first_word_pays_what_it_says_it_had_produced(
    stage: Any,
) -> None:
    async def counts(request: web.Request, body: Any) -> web.StreamResponse:
        begun.set()
        await stage.worker.cancelled.get()
        return await stage.streams(stage.USAGE, stage.DONE)(request, body)

    begun = asyncio.Event()
    stage.worker.script.append(counts)
    exchange = stage.open(CHAT | {"model": "own", "stream": True})
    await begun.wait()
    exchange.cancel()

    record = await stage.record()

    assert (record.outcome, record.output_tokens) == (record.OUTCOME_CANCELLED, 3)
    assert not record.estimated


async def test_who_leaves_before_a_whole_answer_pays_for_the_prompt(stage: Any) -> None:
    async def slow(request: web.Request, body: Any) -> web.StreamResponse:
        begun.set()
        await asyncio.sleep(60)
        return web.Response()

    begun = asyncio.Event()
    stage.provider.script.append(slow)
    exchange = stage.open(CHAT)
    await begun.wait()
    exchange.cancel()

    record = await stage.record()

    assert record.outcome == record.OUTCOME_CANCELLED
    assert (record.output_tokens, record.estimated) == (0, True)
    assert record.charged_nanos == record.input_tokens * 10 > 0


async def test_who_leaves_before_the_first_token_of_a_stream_pays_nothing(stage: Any) -> None:
    async def slow(request: web.Request, body: Any) -> web.StreamResponse:
        begun.set()
        await asyncio.sleep(60)
        return web.Response()

    begun = asyncio.Event()
    stage.provider.script.append(slow)
    exchange = stage.open(CHAT | {"stream": True})
    await begun.wait()
    exchange.cancel()

    assert (await stage.record()).charged_nanos == 0


async def test_who_leaves_over_plain_grpc_pays_as_over_the_pipe(stage: Any) -> None:
    async def slow(request: web.Request, body: Any) -> web.StreamResponse:
        begun.set()
        await asyncio.sleep(60)
        return web.Response()

    begun = asyncio.Event()
    stage.provider.script.append(slow)
    stub = GenerationServiceStub(stage.channel(stage.caller))
    request = pb.CreateChatCompletionRequest(model="m", max_tokens=50)
    request.messages.add(role="user").content.string_value = "count"
    call = stub.CreateChatCompletion(request)
    await begun.wait()
    call.cancel()

    record = await stage.record()

    assert (record.outcome, record.estimated) == (record.OUTCOME_CANCELLED, True)
    assert record.charged_nanos > 0


async def test_who_takes_nothing_of_an_answer_is_cut_off_and_pays_for_what_came(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlinders_inference.generations.STALL_SECONDS", 0.3)
    pieces = [stage.chunk({"content": "x" * 50_000}) for _ in range(20)]
    stage.provider.script.append(stage.streams(*pieces))
    exchange = stage.open(CHAT | {"stream": True})

    record = await stage.record()

    assert (record.outcome, record.estimated) == (record.OUTCOME_CANCELLED, True)
    assert 0 < record.output_tokens < 20
    assert (await stage.answered(exchange)).failure.reason == "CLIENT_STALLED"


async def test_who_leaves_after_the_end_has_completed(stage: Any) -> None:
    exchange = stage.open(CHAT | {"stream": True})
    while b"[DONE]" not in await exchange.data():
        pass
    exchange.cancel()

    assert (await stage.record()).outcome == 1


async def test_a_deadline_ends_a_request_and_settles_it(stage: Any) -> None:
    stage.provider.script.append(endless(stage, asyncio.Event()))

    answer = await stage.answered(stage.open(CHAT | {"stream": True}, deadline_ms=300))

    assert answer.failure.reason == "REQUEST_TOOK_TOO_LONG"
    record = await stage.record()
    assert (record.outcome, record.output_tokens) == (record.OUTCOME_CANCELLED, 2)


async def test_a_drain_settles_what_cannot_end_in_time(stage: Any) -> None:
    stage.provider.script.append(endless(stage, asyncio.Event()))
    exchange = stage.open(CHAT | {"stream": True})
    await exchange.data()

    await stage.service.pipe.drain(within=0.1)

    answer = await stage.answered(exchange)
    assert answer.failure.reason == "REPLICA_STOPS"
    assert (await stage.record()).output_tokens == 2


async def test_a_thousand_who_leave_at_any_time_are_recorded_once_each(stage: Any) -> None:
    exchanges = []
    for number in range(200):
        exchanges.append(stage.open(CHAT | {"stream": number % 2 == 0}))
        if number % 7 == 0:
            await asyncio.sleep(0)
        if number % 3 == 0:
            exchanges[number // 2].cancel()
    for number, exchange in enumerate(exchanges):
        if number % 2:
            exchange.cancel()

    records = await stage.records(200)

    assert len({record.request_id for record in records}) == len(records) == 200
    await stage.credit.close()
    charged = sum(record.charged_nanos for record in records)
    assert sum(stage.bank.leases.values()) == charged
