"""The RPCs of inference over a real channel: who may, what is refused, and what is told."""

import asyncio
from typing import Any

import grpc
import pytest
from aiohttp import web

from vlinders.api.v1 import options_pb2 as api
from vlinders.inference.v1 import generations_pb2 as pb
from vlinders.inference.v1 import models_pb2 as models
from vlinders.inference.v1.generations_pb2_grpc import GenerationServiceStub
from vlinders.inference.v1.models_pb2_grpc import ModelServiceStub
from vlinders_kit.errors import failure_of
from vlinders_kit.testing import a_user, an_api_key

pytestmark = pytest.mark.anyio

CHAT = {"model": "m", "messages": [{"role": "user", "content": "count"}], "max_tokens": 50}


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({"messages": []}, "INVALID_REQUEST"),
        ({"model": "gone"}, "MODEL_NOT_FOUND"),
        ({"model": "unpriced"}, "MODEL_NOT_PRICED"),
        ({"model": "vectors"}, "INVALID_REQUEST"),
    ],
)
async def test_bad_input_is_refused_before_anything_is_spent(
    stage: Any, over: dict[str, Any], reason: str
) -> None:
    answer = await stage.ask(CHAT | over)

    assert answer.failure.reason == reason
    assert stage.bank.acquired == []
    assert stage.provider.bodies == []


async def test_no_money_is_told_and_nothing_is_run(stage: Any) -> None:
    stage.bank.balance = 0

    answer = await stage.ask(CHAT)

    assert answer.failure.reason == "INSUFFICIENT_CREDIT"
    assert int(answer.failure.facts["needed_nanos"]) > 0
    assert stage.provider.bodies == []


async def test_a_balance_worth_k_calls_admits_k_of_many_at_once(stage: Any) -> None:
    await stage.ask(CHAT)
    (first,) = await stage.records()
    await stage.credit.close()
    gate = asyncio.Event()

    async def held(request: web.Request, body: Any) -> web.StreamResponse:
        await gate.wait()
        return await stage.tells(stage.completion())(request, body)

    stage.provider.script.extend([held] * 40)
    stage.bank.balance = 7 * first.ceiling_nanos + 1

    exchanges = [stage.open(CHAT) for _ in range(40)]
    refused = [await stage.answered(exchange) for exchange in exchanges[7:]]
    gate.set()
    served = [await stage.answered(exchange) for exchange in exchanges[:7]]

    assert [answer.failure.reason for answer in refused] == ["INSUFFICIENT_CREDIT"] * 33
    assert [answer.failure for answer in served] == [None] * 7


async def test_a_key_without_the_scope_may_not(stage: Any) -> None:
    stage.caller = an_api_key(scopes=["inference:read"])

    assert (await stage.ask(CHAT)).failure.reason == "NOT_PERMITTED"


@pytest.mark.parametrize("operation", ["Pipe", "DropTables", ""])
async def test_an_operation_that_is_none_is_refused(stage: Any, operation: str) -> None:
    answer = await stage.ask(CHAT, operation)

    assert answer.failure.reason in ("UNKNOWN_OPERATION", "NOT_PERMITTED")


async def test_usage_is_shown_to_who_asks_for_it_and_hidden_from_others(stage: Any) -> None:
    asked = await stage.ask(CHAT | {"stream": True, "stream_options": {"include_usage": True}})
    not_asked = await stage.ask(CHAT | {"stream": True})

    assert asked.events[-2]["choices"] == []
    assert asked.events[-2]["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 3,
        "total_tokens": 12,
    }
    assert b"usage" not in not_asked.body


async def test_embeddings_are_told_in_openais_shape(stage: Any) -> None:
    answer = await stage.ask({"model": "vectors", "input": "x"}, "CreateEmbeddings")

    assert answer.json == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}],
        "model": "vectors",
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
    record = await stage.record()
    assert (record.operation, record.input_tokens) == ("CreateEmbeddings", 4)
    assert record.charged_nanos == 40
    assert stage.provider.bodies[0] == {"model": "m-2026", "input": "x"}


async def test_tool_calls_come_through_whole(stage: Any) -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    pieces = [
        stage.START,
        stage.chunk({"tool_calls": [call]}),
        stage.chunk({}, "tool_calls"),
        b"data: [DONE]\n\n",
    ]
    stage.provider.script.append(stage.streams(*pieces))

    answer = await stage.ask(CHAT | {"stream": True})

    deltas = [row["choices"][0]["delta"] for row in answer.events[:-1]]
    assert deltas == [{"role": "assistant", "content": ""}, {"tool_calls": [call]}, {}]
    assert answer.events[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_plain_grpc_answers_as_the_pipe_does(stage: Any) -> None:
    stub = GenerationServiceStub(stage.channel(stage.caller))
    request = pb.CreateChatCompletionRequest(model="m", max_tokens=50, stream=True)
    request.messages.add(role="user").content.string_value = "count"

    answer = await stub.CreateChatCompletion(request)

    assert answer.choices[0].message.content == "one two 三"
    assert (answer.model, answer.usage.total_tokens) == ("m", 12)
    assert (await stage.record()).account_id == stage.caller.account_id


async def test_plain_grpc_makes_embeddings_and_names_bad_fields(stage: Any) -> None:
    stub = GenerationServiceStub(stage.channel(stage.caller))
    request = pb.CreateEmbeddingsRequest(model="vectors")
    request.input.string_value = "x"
    answer = await stub.CreateEmbeddings(request)
    assert list(answer.data[0].embedding.list_value) == [0.5, -1.0]

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.CreateEmbeddings(pb.CreateEmbeddingsRequest(model="vectors"))

    assert [row.field for row in failure_of(error.value).violations] == ["input"]


async def test_models_are_listed_by_id_with_what_they_can_do(stage: Any) -> None:
    stub = ModelServiceStub(stage.channel(a_user()))

    answer = await stub.ListModels(models.ListModelsRequest())

    assert answer.object == "list"
    ids = [model.id for model in answer.data]
    assert ids == sorted(ids)
    by_id = {model.id: model for model in answer.data}
    assert by_id["own"].owned_by == "vlinders"
    assert by_id["m"].capabilities.max_tokens == 4096
    assert by_id["m"].capabilities.supports_function_calling
    assert by_id["vectors"].capabilities.supports_embeddings
    assert not by_id["vectors"].capabilities.supports_streaming
    assert by_id["vectors"].capabilities.max_tokens >= 1


async def test_a_model_that_is_none_is_not_found(stage: Any) -> None:
    stub = ModelServiceStub(stage.channel(a_user()))
    assert (await stub.GetModel(models.GetModelRequest(model="m"))).id == "m"

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.GetModel(models.GetModelRequest(model="gone"))

    assert failure_of(error.value).reason == "MODEL_NOT_FOUND"


def test_every_operation_of_the_pipe_is_one_of_the_contract() -> None:
    from vlinders_inference.generations import OPERATIONS

    methods = pb.DESCRIPTOR.services_by_name["GenerationService"].methods
    piped = {row.name for row in methods if row.GetOptions().Extensions[api.operation].piped}
    assert piped == OPERATIONS.keys()
