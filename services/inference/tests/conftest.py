"""A stage for inference: real Postgres, gRPC and HTTP; engines, billing and scheduler by script."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.api.v1.pipe_pb2 import PipeOpen
from vlinders.billing.v1 import credit_pb2 as credit
from vlinders.billing.v1 import prices_pb2 as prices
from vlinders.billing.v1.credit_pb2_grpc import (
    CreditServiceServicer,
    add_CreditServiceServicer_to_server,
)
from vlinders.billing.v1.prices_pb2_grpc import (
    PriceServiceServicer,
    add_PriceServiceServicer_to_server,
)
from vlinders.gpu_scheduler.v1 import picks_pb2 as picks
from vlinders.gpu_scheduler.v1.picks_pb2_grpc import (
    PickServiceServicer,
    add_PickServiceServicer_to_server,
)
from vlinders.inference.v1.events_pb2 import UsageGathered, UsageRecorded
from vlinders_inference.admission import CreditBook
from vlinders_inference.billing import Billing
from vlinders_inference.catalogue import Catalogue, Model, Offer, ProviderKey
from vlinders_inference.engines import Timeouts
from vlinders_inference.errors import InsufficientCredit, NoCapacity
from vlinders_inference.generations import Generations
from vlinders_inference.metering import UsageLog
from vlinders_inference.picks import Picks
from vlinders_inference.providers import Providers
from vlinders_inference.routes import Router
from vlinders_inference.service import PIPE, GenerationService, services
from vlinders_inference.waits import Watch
from vlinders_inference.workers import Workers
from vlinders_kit.callers import Identity
from vlinders_kit.clock import SystemClock
from vlinders_kit.errors import Failure
from vlinders_kit.ids import new_id
from vlinders_kit.pipe import Dial, PipeClient
from vlinders_kit.postgres import connect
from vlinders_kit.rpc import Guard
from vlinders_kit.testing import CALLER_KEY, Awaited, PipeFailed, a_part, an_api_key, named, served

package = named("vlinders_inference")

Behaviour = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
PRICE = prices.Price(version="price_1", input_nanos=10, cached_input_nanos=4, output_nanos=30)
SECRET = "sk-of-the-provider-and-nobody-else"


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    """A chunk as an engine sends it: with an id, a model and fields of its own."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    body = {"id": "theirs", "created": 1, "model": "m-2026", "choices": [choice], **more}
    return b"data: %s\n\n" % json.dumps(body).encode()


def said(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **more}


START = chunk({"role": "assistant", "content": ""})
STOP = chunk({}, "stop")
USAGE = b'data: {"id":"theirs","choices":[],"usage":%s}\n\n' % json.dumps(said(9, 3)).encode()
DONE = b"data: [DONE]\n\n"
WHOLE_STREAM = [
    START,
    *(chunk({"content": word}) for word in ("one", " two", " 三")),
    STOP,
    USAGE,
    DONE,
]


def streams(*pieces: bytes, then: Callable[[], Awaitable[Any]] | None = None) -> Behaviour:
    """Answers with these bytes, one write each, and then ends, or does what `then` does."""

    async def behave(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if then is not None:
            await then()
        return response

    return behave


def tells(body: Any, status: int = 200, **headers: str) -> Behaviour:
    """Answers with this JSON."""

    async def behave(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(body, status=status, headers=headers)

    return behave


def completion(content: str = "one two 三", **over: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {"id": "theirs", "model": "m-2026", "choices": [choice], "usage": said(9, 3)} | over


async def usual(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    if request.path.endswith("/embeddings"):
        rows = [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}]
        return web.json_response({"data": rows, "usage": {"prompt_tokens": 4, "total_tokens": 4}})
    if body.get("stream"):
        return await streams(*WHOLE_STREAM)(request, body)
    return web.json_response(completion())


class Engine:
    """An OpenAI-shaped upstream that does as told: `script` has its next answers, then `usual`."""

    def __init__(self) -> None:
        self.script: deque[Behaviour] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        """Request ids of the cancels that came, as a worker's agent gets them."""
        self.living, self.asked_to_live = asyncio.Event(), asyncio.Event()
        """Whether it answers when it is asked whether it lives, and whether it was asked."""
        self.living.set()
        self.url = ""
        self.runner: web.AppRunner

    async def hang_up(self) -> None:
        """Closes the connections that are kept."""
        assert self.runner.server is not None
        await self.runner.server.shutdown(0.01)

    async def stop(self) -> None:
        await self.runner.cleanup()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        behave = self.script.popleft() if self.script else usual
        return await behave(request, body)

    async def live(self, request: web.Request) -> web.StreamResponse:
        self.asked_to_live.set()
        await self.living.wait()
        return web.Response()

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        self.cancelled.put_nowait(request.match_info["request_id"])
        return web.json_response({})


@asynccontextmanager
async def engine_running() -> AsyncIterator[Engine]:
    engine = Engine()
    app = web.Application(client_max_size=1 << 25)
    app.router.add_post("/v1/requests/{request_id}/cancel", engine.cancel)
    app.router.add_get("/healthz", engine.live)
    app.router.add_post("/{path:.*}", engine.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    engine.runner = runner
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    engine.url = f"http://127.0.0.1:{port}"
    try:
        yield engine
    finally:
        await runner.cleanup()


class Bank(CreditServiceServicer, PriceServiceServicer):
    """Billing with one wallet for everybody; `balance` is what it can still lend."""

    def __init__(self) -> None:
        self.balance = 10**15
        self.leases: dict[str, int] = {}
        self.acquired: list[credit.AcquireLeaseRequest] = []
        self.renewed: list[str] = []
        self.gone: list[str] = []
        self.recalls: asyncio.Queue[str] = asyncio.Queue()

    async def AcquireLease(self, request: credit.AcquireLeaseRequest, context: Any) -> credit.Lease:
        self.acquired.append(request)
        granted = min(request.wanted_nanos, self.balance)
        if granted < request.least_nanos:
            raise InsufficientCredit(needed_nanos=request.least_nanos)
        self.balance -= granted
        self.leases[request.lease_id] = granted
        return credit.Lease(
            lease_id=request.lease_id, granted_nanos=granted, lifetime=Duration(seconds=60)
        )

    async def RenewLeases(self, request: Any, context: Any) -> credit.RenewLeasesResponse:
        self.renewed.extend(request.lease_ids)
        return credit.RenewLeasesResponse(lifetime=Duration(seconds=60), gone_lease_ids=self.gone)

    async def ReturnCredit(self, request: Any, context: Any) -> credit.ReturnCreditResponse:
        for row in request.returns:
            self.leases[row.lease_id] -= row.nanos
            self.balance += row.nanos
        return credit.ReturnCreditResponse()

    async def WatchRecalls(self, request: Any, context: Any) -> AsyncIterator[credit.Recall]:
        while True:
            yield credit.Recall(tenant_id=await self.recalls.get())

    async def PutPrices(self, request: Any, context: Any) -> prices.PutPricesResponse:
        return prices.PutPricesResponse(prices=request.prices)

    async def ListPrices(self, request: Any, context: Any) -> prices.ListPricesResponse:
        return prices.ListPricesResponse()


class Scheduler(PickServiceServicer):
    """Picks from `targets` in turn, passing over excluded workers."""

    def __init__(self) -> None:
        self.targets: list[picks.Target] = []
        self.asked: list[picks.PickRequest] = []
        self.finished: list[str] = []
        self.wait = Duration(seconds=2)
        """When whoever finds nobody is told to come again."""
        self._out: asyncio.Queue[picks.PickAnswers] = asyncio.Queue()

    async def Pick(
        self, request_iterator: AsyncIterator[picks.PickRequests], context: Any
    ) -> AsyncIterator[picks.PickAnswers]:
        reader = asyncio.create_task(self._read(request_iterator))
        try:
            while True:
                yield await self._out.get()
        finally:
            reader.cancel()

    def suspect(self, *epochs: int) -> None:
        """Has inference told that these are suspect, and no others."""
        rows = [picks.Suspects.Suspect(worker_id="w", epoch=epoch) for epoch in epochs]
        self._out.put_nowait(picks.PickAnswers(suspects=picks.Suspects(workers=rows)))

    async def _read(self, requests: AsyncIterator[picks.PickRequests]) -> None:
        async for message in requests:
            self.asked.extend(message.picks)
            self.finished.extend(message.finished_request_ids)
            answers = [self._answer(ask) for ask in message.picks]
            if answers:
                self._out.put_nowait(picks.PickAnswers(answers=answers))

    def _answer(self, ask: picks.PickRequest) -> picks.PickAnswer:
        for target in self.targets:
            if target.worker_id not in ask.excluded_worker_ids:
                return picks.PickAnswer(request_id=ask.request_id, target=target)
        answer = picks.PickAnswer(request_id=ask.request_id)
        answer.status.code = NoCapacity.status.value[0]
        answer.status.details.add().Pack(RetryInfo(retry_delay=self.wait))
        return answer


@dataclass
class Answer:
    """What a client got."""

    content_type: str = ""
    body: bytes = b""
    failure: Failure | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        rows = self.body.decode().split("\n\n")
        assert rows.pop() == "", "a stream ends with a whole event"
        assert all(row.startswith("data: ") for row in rows)
        return [row[6:] if row == "data: [DONE]" else json.loads(row[6:]) for row in rows]

    @property
    def text(self) -> str:
        choices = [event["choices"] for event in self.events if event != "[DONE]"]
        return "".join(row[0]["delta"].get("content", "") for row in choices if row)


DOMAIN = "vlinders.inference"


@dataclass
class Stage:
    """Inference as the gateway reaches it."""

    database_url: str
    provider: Engine
    spare: Engine
    worker: Engine
    bank: Bank
    scheduler: Scheduler
    catalogue: Catalogue
    credit: CreditBook
    usage: UsageLog
    pipe: PipeClient
    channel: Callable[[Caller | None], Any]
    service: GenerationService
    caller: Caller = field(default_factory=an_api_key)
    secret = SECRET
    streams = staticmethod(streams)
    tells = staticmethod(tells)
    chunk = staticmethod(chunk)
    completion = staticmethod(completion)
    START = START
    USAGE = USAGE
    DONE = DONE

    async def answered(self, exchange: Awaited) -> "Answer":
        return await answered(exchange)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)

    def open(self, body: Any, operation: str = "CreateChatCompletion", **over: Any) -> Awaited:
        raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        opened = {
            "request_id": new_id("req"),
            "operation": operation,
            "caller": self.caller.SerializeToString(),
            "body": raw,
        }
        return Awaited(self.pipe.open, PipeOpen(**(opened | over)))

    async def ask(self, body: Any, operation: str = "CreateChatCompletion") -> Answer:
        return await answered(self.open(body, operation))

    async def records(self, count: int = 1) -> list[UsageRecorded]:
        """The records of usage, once there are so many."""
        async with await connect(self.database_url, "test") as connection:
            await connection.execute("LISTEN outbox")
            while True:
                found = await connection.execute("SELECT body FROM outbox ORDER BY seq")
                gathered = [UsageGathered.FromString(row[0]) for row in await found.fetchall()]
                records = [record for event in gathered for record in event.records]
                if len(records) >= count:
                    return records
                async for _ in connection.notifies(timeout=0.2, stop_after=1):
                    pass

    async def record(self) -> UsageRecorded:
        (only,) = await self.records()
        return only


async def answered(exchange: Awaited) -> Answer:
    answer = Answer()
    try:
        answer.content_type = await exchange.head()
        while data := await exchange.data():
            answer.body += data
    except PipeFailed as failed:
        answer.failure = failed.failure
    return answer


def _offer(engine: Engine, name: str, priority: int, *secrets: str) -> Offer:
    keys = tuple(ProviderKey(position, secret) for position, secret in enumerate(secrets))
    return Offer(name, f"{engine.url}/v1", "m-2026", None, priority, keys)


def _models(provider: Engine, spare: Engine) -> list[Model]:
    plain = {
        "owned_by": "mock",
        "worker_model": None,
        "context_length": 8192,
        "max_tokens": 4096,
        "embeddings": False,
        "function_calling": True,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    one = (_offer(provider, "mock", 0, SECRET),)
    two = (*one, _offer(spare, "spare", 1, "sk-spare"))
    own = plain | {"worker_model": "tiny", "owned_by": "vlinders"}
    return [
        Model(id="m", offers=one, **plain),
        Model(id="m-two", offers=two, **plain),
        Model(id="m-streamed", offers=(replace(one[0], always_stream=True),), **plain),
        Model(id="m-keys", offers=(_offer(provider, "mock", 0, "sk-a", "sk-b"),), **plain),
        Model(id="vectors", offers=one, **(plain | {"embeddings": True, "max_tokens": 0})),
        Model(id="own", **own),
        Model(id="own-vectors", **(own | {"embeddings": True, "max_tokens": 0})),
        Model(id="unpriced", offers=one, **plain),
    ]


@pytest.fixture
async def stage(database_url: str) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        provider, spare, worker = [
            await stack.enter_async_context(engine_running()) for _ in range(3)
        ]
        bank, scheduler = Bank(), Scheduler()
        scheduler.targets.append(
            picks.Target(
                worker_id="w1", address=worker.url, slot_id="s", ticket="ticket-1", epoch=1
            )
        )
        peers = await stack.enter_async_context(
            served(
                "vlinders.peers",
                ("vlinders.billing.v1.CreditService", add_CreditServiceServicer_to_server, bank),
                ("vlinders.billing.v1.PriceService", add_PriceServiceServicer_to_server, bank),
                (
                    "vlinders.gpu_scheduler.v1.PickService",
                    add_PickServiceServicer_to_server,
                    scheduler,
                ),
            )
        )
        channel = peers.channel(a_part("inference"))
        models = _models(provider, spare)
        catalogue = Catalogue(models)
        catalogue.set_prices(
            [
                prices.Price(
                    model=model.id,
                    version=PRICE.version,
                    input_nanos=PRICE.input_nanos,
                    cached_input_nanos=PRICE.cached_input_nanos,
                    output_nanos=PRICE.output_nanos,
                )
                for model in models
                if model.id != "unpriced"
            ]
        )
        timeouts = Timeouts(connect=2, first_byte=1, idle=1)
        credit_book = CreditBook(Billing(channel, "holder"), SystemClock())
        usage, watch, workers = UsageLog(database_url), Watch(), Workers(connect_seconds=2)
        picker = Picks(channel, workers.suspect)
        router = Router(picker, workers, Providers(models, timeouts))
        generations = Generations(catalogue, credit_book, router, usage, watch, timeouts)
        service = GenerationService(generations)
        inference = await stack.enter_async_context(served(DOMAIN, *services(service, catalogue)))

        pipes = service.pipe.listen("127.0.0.1", 0, path=PIPE, guard=Guard(DOMAIN, CALLER_KEY))
        dial = Dial(PIPE, DOMAIN, Identity("gateway", CALLER_KEY))
        pipe = PipeClient(f"127.0.0.1:{pipes.port}", dial)
        runs = (pipes.run, pipe.run, credit_book.run, usage.run, watch.run, picker.run)
        tasks = [asyncio.create_task(run()) for run in runs]
        async with asyncio.timeout(10):
            while not (pipe.ready and picker.connected):
                await asyncio.sleep(0.01)
        yield Stage(
            database_url,
            provider,
            spare,
            worker,
            bank,
            scheduler,
            catalogue,
            credit_book,
            usage,
            pipe,
            inference.channel,
            service,
        )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await router.close()
        await usage.close()
