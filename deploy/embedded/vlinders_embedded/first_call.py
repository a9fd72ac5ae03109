"""Whether the first call would succeed: the operator has money, the workers have their models."""

import asyncio
import json
import time
from typing import Any, ClassVar
from urllib.error import URLError
from urllib.request import Request, urlopen

import grpc
import yaml

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders.gpu_scheduler.v1.workers_pb2 import (
    ListWorkersRequest,
    ListWorkersResponse,
    Slot,
    Worker,
)
from vlinders_embedded.parts import Stack
from vlinders_kit.callers import METADATA, CallerKey
from vlinders_kit.embedded.programs import NotServing
from vlinders_kit.settings import TlsSettings
from vlinders_kit.tls import open_channel

_POLL = 0.1
_SCHEDULER = "vlinders.gpu_scheduler"


class _Shown(TlsSettings):
    """What the gateway shows, in whose place the gpu-scheduler is asked."""

    prefix: ClassVar[str] = "VLINDERS_GATEWAY"


async def await_usable(stack: Stack, *, since_ns: int, seconds: float) -> None:
    """Returns when the printed call would succeed. Raises NotServing, with what is missing.

    Workers count that have joined after `since_ns` of the clock: of those that were killed with an
    earlier stack the scheduler does not know it yet.
    """
    deadline = time.monotonic() + seconds
    while missing := await _missing(stack, since_ns):
        if time.monotonic() > deadline:
            raise NotServing(f"everything runs, but after {seconds:g} s {missing}")
        await asyncio.sleep(_POLL)


def model_to_call(stack: Stack) -> str:
    """The first model of the catalogue that chats."""
    models: dict[str, dict[str, Any]] = yaml.safe_load(stack.options.catalogue.read_text())[
        "models"
    ]
    return next(name for name, facts in models.items() if not facts.get("embeddings"))


async def _missing(stack: Stack, since_ns: int) -> str:
    """What the first call lacks, in words; empty when it lacks nothing."""
    if not await asyncio.to_thread(_has_money, stack):
        return "the operator's wallet is empty: see the logs of auth and billing"
    try:
        workers = (await _workers(stack)).workers
    except grpc.aio.AioRpcError as error:
        return f"the gpu-scheduler does not list its workers: {error.details()}"
    online = [
        worker
        for worker in workers
        if worker.state == Worker.STATE_ONLINE and worker.state_since.ToNanoseconds() >= since_ns
    ]
    if len(online) < stack.options.count("worker"):
        return "a worker has not joined: see its log"
    for slot in (slot for worker in online for slot in worker.inventory.slots):
        if slot.state != Slot.STATE_READY:
            why = slot.message or "it is loading"
            return f"the worker's model {slot.model} is not ready ({why}): see its log"
    return ""


def _has_money(stack: Stack) -> bool:
    """Whether the operator's grant, which an event brings, has arrived; now or long ago."""
    credential = {"Authorization": f"Bearer {stack.secrets.api_key}"}
    request = Request(f"{stack.url}/v1/wallet/transfers", headers=credential)
    try:
        with urlopen(request, timeout=5) as answer:
            ids = [transfer["id"] for transfer in json.load(answer)["data"]]
    except URLError:  # refused, or an answer that says why not
        return False
    return len(ids) > 2 or any(id.startswith("grant:operator:") for id in ids)


async def _workers(stack: Stack) -> ListWorkersResponse:
    key = CallerKey(bytes.fromhex(stack.secrets.caller_key))
    operator = Caller(kind=Caller.KIND_USER, roles=[api.ROLE_OPERATOR])
    target, tls = stack.targets("gpu-scheduler")[0], _Shown.load().tls
    async with open_channel(target, _SCHEDULER, tls, options=()) as channel:
        list_workers = channel.unary_unary(
            f"/{_SCHEDULER}.v1.WorkerService/ListWorkers",
            request_serializer=ListWorkersRequest.SerializeToString,
            response_deserializer=ListWorkersResponse.FromString,
        )
        signed = (METADATA, key.sign(operator, _SCHEDULER))
        workers: ListWorkersResponse = await list_workers(
            ListWorkersRequest(), timeout=5, metadata=[signed]
        )
        return workers
