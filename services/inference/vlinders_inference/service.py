"""The RPCs of inference: the pipe, the same operations over plain gRPC, the models."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from grpc.aio import ServicerContext

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.inference.v1 import generations_pb2 as pb
from vlinders.inference.v1 import models_pb2 as models_pb
from vlinders.inference.v1.generations_pb2_grpc import (
    GenerationServiceServicer,
    add_GenerationServiceServicer_to_server,
)
from vlinders.inference.v1.models_pb2_grpc import (
    ModelServiceServicer,
    add_ModelServiceServicer_to_server,
)
from vlinders_inference.catalogue import Catalogue, Model
from vlinders_inference.errors import UnknownOperation
from vlinders_inference.generations import Generations
from vlinders_kit import tracing
from vlinders_kit.callers import caller
from vlinders_kit.ids import new_id
from vlinders_kit.pipe import Exchange, PipeServer
from vlinders_kit.policies import policy_of, require

M = TypeVar("M", bound=Message)

_SERVICE = pb.DESCRIPTOR.services_by_name["GenerationService"]
_POLICIES = {method.name: policy_of(method) for method in _SERVICE.methods}


_MOST_ASKERS = 10_000
"""Callers, with an operation each, that are remembered."""

Served = tuple[str, Callable[[Any, Any], None], Any]
"""Full name, how it is added to a server, servicer."""


def services(generations: "GenerationService", catalogue: Catalogue) -> Sequence[Served]:
    """All that inference serves."""
    package = "vlinders.inference.v1"
    models = ModelService(catalogue)
    return (
        (f"{package}.GenerationService", add_GenerationServiceServicer_to_server, generations),
        (f"{package}.ModelService", add_ModelServiceServicer_to_server, models),
    )


PIPE = f"/{_SERVICE.full_name}/Pipe"
"""The RPC that is served at a port of its own, by `GenerationService.pipe`."""


class GenerationService(GenerationServiceServicer):
    def __init__(self, generations: Generations) -> None:
        self.generations = generations
        self.pipe = PipeServer(self._exchange, domain="vlinders.inference")
        self._serving: set[asyncio.Future[None]] = set()
        self._askers: dict[tuple[bytes, str], Caller] = {}
        """Who may do what, by the bytes that say who: they are the same for each of a credential's
        requests, and to read them and hold them against the policy takes four microseconds."""

    async def CreateChatCompletion(
        self,
        request: pb.CreateChatCompletionRequest,
        context: ServicerContext[Any, Any],
    ) -> pb.ChatCompletion:
        request.stream = False
        return await self._whole("CreateChatCompletion", request, pb.ChatCompletion())

    async def CreateEmbeddings(
        self, request: pb.CreateEmbeddingsRequest, context: ServicerContext[Any, Any]
    ) -> pb.Embeddings:
        return await self._whole("CreateEmbeddings", request, pb.Embeddings())

    def _exchange(self, exchange: Exchange) -> Awaitable[None]:
        opened = exchange.open
        operation = opened.operation
        known = opened.caller, operation
        asker = self._askers.get(known)
        if asker is None:
            asker = exchange.caller
            policy = _POLICIES.get(operation)
            if policy is None:
                raise UnknownOperation(operation=operation)
            require(policy, asker)
            if len(self._askers) >= _MOST_ASKERS:
                self._askers.clear()
            self._askers[known] = asker
        serve = self.generations.serve(operation, asker, opened.request_id, opened.body, exchange)
        return _traced(opened.traceparent, operation, serve) if opened.traceparent else serve

    async def _whole(self, operation: str, request: Message, answer: M) -> M:
        body = json_format.MessageToJson(request, preserving_proto_field_name=True, indent=None)
        asker, client = caller(), _Collected()
        request_id = asker.request_id or new_id("req")
        serving = asyncio.ensure_future(
            self.generations.serve(operation, asker, request_id, body.encode(), client)
        )
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            client.cancelled = True  # the request goes on, to stop its engine and to settle
            raise
        return json_format.Parse(client.body, answer, ignore_unknown_fields=True)


async def _traced(traceparent: str, operation: str, serve: Awaitable[None]) -> None:
    with tracing.received(traceparent, operation):
        await serve


class ModelService(ModelServiceServicer):
    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    async def ListModels(
        self, request: models_pb.ListModelsRequest, context: ServicerContext[Any, Any]
    ) -> models_pb.ListModelsResponse:
        models = [_told(model) for model in self.catalogue.models.values()]
        return models_pb.ListModelsResponse(object="list", data=models)

    async def GetModel(
        self, request: models_pb.GetModelRequest, context: ServicerContext[Any, Any]
    ) -> models_pb.Model:
        return _told(self.catalogue.model(request.model))


class _Collected:
    """A client that gets its answer at once, when it is whole."""

    def __init__(self) -> None:
        self.cancelled = False
        self.body = b""

    def head(self, content_type: str) -> None:
        pass

    def offer(self, data: bytes) -> bool:
        self.body += data
        return True

    async def send(self, data: bytes) -> None:
        self.body += data


def _told(model: Model) -> models_pb.Model:
    capabilities = models_pb.Model.Capabilities(
        max_tokens=model.context_length if model.embeddings else model.max_tokens,
        supports_streaming=not model.embeddings,
        supports_function_calling=model.function_calling,
        supports_embeddings=model.embeddings,
    )
    return models_pb.Model(
        id=model.id,
        object="model",
        created=int(model.created_at.timestamp()),
        owned_by=model.owned_by,
        capabilities=capabilities,
    )
