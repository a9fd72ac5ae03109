"""Generations: the path of a request, from its bytes to its record."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from msgspec import Struct

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.inference.v1.events_pb2 import UsageRecorded
from vlinders_inference import measures, spans
from vlinders_inference.admission import CreditBook
from vlinders_inference.answers import BrokenAnswer, Reader, completion, embeddings
from vlinders_inference.catalogue import Catalogue, Model
from vlinders_inference.engines import Attempt, AttemptFailed, Timeouts, post, read
from vlinders_inference.errors import (
    ClientStalled,
    CreditUnavailable,
    NoCapacity,
    UnknownOperation,
    UpstreamFailed,
    UsageNotKept,
)
from vlinders_inference.jobs import Job
from vlinders_inference.metering import UsageLog
from vlinders_inference.prices import NONE
from vlinders_inference.requests import Ask, body_for, read_chat, read_embeddings
from vlinders_inference.responses import Disconnected, Response
from vlinders_inference.routes import WORKER, Router
from vlinders_inference.streams import EventStream
from vlinders_inference.waits import Client, ClientLeft, TookTooLong, Wait, Watch
from vlinders_inference.wholes import Gathering, Pieces, Taker
from vlinders_kit import tracing
from vlinders_kit.errors import AppError
from vlinders_kit.ids import new_id

SETTLE_SECONDS = 4.0
"""How long a worker that was told to stop may take to say what its engine has produced."""

STALL_SECONDS = 75.0
"""How long a client may take nothing of its answer. The gateway gives up earlier."""


@dataclass(frozen=True, slots=True)
class _Operation:
    read: Callable[[bytes, Callable[[str], Model]], Ask]
    answer: Reader


OPERATIONS = {
    "CreateChatCompletion": _Operation(read_chat, completion),
    "CreateEmbeddings": _Operation(read_embeddings, embeddings),
}


class _Streaming(Struct, eq=False):
    """A stream that has begun: where it comes from, and what of it goes to the client next."""

    attempt: Attempt
    response: Response
    events: EventStream
    out: bytes


class Generations:
    """Serves requests for generations: admits, runs, records."""

    def __init__(
        self,
        catalogue: Catalogue,
        credit: CreditBook,
        router: Router,
        usage: UsageLog,
        watch: Watch,
        timeouts: Timeouts,
    ) -> None:
        self._catalogue = catalogue
        self._credit = credit
        self._router = router
        self._usage = usage
        self._watch = watch
        self._timeouts = timeouts

    async def serve(
        self, operation: str, caller: Caller, request_id: str, body: bytes, client: Client
    ) -> None:
        """Answers one request to `client`. Raises what the RPC of the operation fails with.

        When it returns or raises, the request has its one record, if it was admitted. One for
        which there is no capacity was not: to refuse it must cost little.
        """
        job = await self._admitted(operation, caller, request_id, body)
        wait = self._watch.begin(client)
        failure: AppError | None = None
        last = b""
        try:
            last = await (self._stream if job.ask.stream else self._whole)(job, wait)
        except ClientLeft:
            job.outcome = UsageRecorded.OUTCOME_CANCELLED
        except AppError as error:
            failure = error
        finally:
            # Whatever happened, a cancellation of this task too: nothing here waits.
            self._watch.end(wait)
            kept = self._end(job, failure)
        if failure is not None:
            with suppress(UsageNotKept):
                await kept
            raise failure
        await kept
        if not job.ask.stream:
            client.head("application/json")
        if not client.offer(last):
            await client.send(last)

    async def _admitted(self, operation: str, caller: Caller, request_id: str, body: bytes) -> Job:
        """The request as a job, with the credit that it may need. Whoever gets it ends it."""
        try:
            kind = OPERATIONS.get(operation)
            if kind is None:
                raise UnknownOperation(operation=operation)
            ask = kind.read(body, self._catalogue.model)
            price = self._catalogue.price(ask.model.id)
            if not self._usage.writable:
                raise CreditUnavailable
            ceiling = price.ceiling(ask.prompt_bound, ask.max_tokens)
            with tracing.step("admission"):
                hold = await self._credit.take(caller.tenant_id, ceiling)
        except AppError as error:
            measures.refused(error.reason)
            raise
        return Job(request_id, operation, caller, ask, price, hold)

    def _end(self, job: Job, failure: AppError | None) -> "asyncio.Future[None]":
        """Settles the job and has its record written; done once that is kept."""
        self._router.ended(job)
        charged = job.charge
        job.hold.settle(charged)
        if isinstance(failure, NoCapacity):
            measures.refused(failure.reason)
            kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            kept.set_result(None)
            return kept
        record = job.record(charged)
        measures.ended(record)
        spans.ended(job, record)
        return self._usage.add(record)

    async def _whole(self, job: Job, wait: Wait) -> bytes:
        """The answer of the first engine that gives one, for the client, whole."""
        taker: Taker | None = None

        def start(attempt: Attempt) -> Awaitable[Response]:
            nonlocal taker
            gathers = attempt.always_stream and not job.ask.model.embeddings
            taker = _taker(job, attempt, gathers=gathers)
            return self._post(job, attempt, wait, stream=gathers)

        try:
            response = await self._router.first(job, start)
            assert taker is not None
            await self._take(job, response, taker, wait)
            if wait.left:
                raise ClientLeft
            whole = taker.whole()
        except ClientLeft:
            if job.asked and taker is not None:
                job.tokens = taker.used()
            raise
        except (AttemptFailed, BrokenAnswer) as broken:
            raise UpstreamFailed(model=job.ask.model.id, cause=str(broken)) from None
        job.token_came()
        job.tokens, job.finish_reason = whole.tokens, whole.finish_reason
        job.outcome = UsageRecorded.OUTCOME_COMPLETED
        return whole.body

    async def _take(self, job: Job, response: Response, taker: Taker, wait: Wait) -> None:
        """Has all of the answer taken in. Raises AttemptFailed, BrokenAnswer and ClientLeft."""
        try:
            whole = False
            while not whole:
                data = response.read_now()
                if not data:
                    data = await read(response, wait, self._timeouts.first_byte)
                if job.asking is not None:
                    spans.heard(job, data)
                whole = taker.feed(data, last=response.whole)
        except BaseException:
            response.close()
            raise
        self._router.let_go(response)

    async def _stream(self, job: Job, wait: Wait) -> bytes:
        """Sends the stream of the first engine that begins one; returns the end of it."""

        def start(attempt: Attempt) -> Awaitable[_Streaming]:
            return self._begin(job, attempt, wait)

        begun = await self._router.first(job, start)
        events, response = begun.events, begun.response
        wait.client.head("text/event-stream")
        try:
            await self._relay(job, wait, begun)
        except AttemptFailed as failed:
            if wait.left:
                raise ClientLeft from None
            raise UpstreamFailed(model=job.ask.model.id, cause=failed.cause) from None
        finally:
            job.tokens, job.finish_reason = events.tokens(), events.finish_reason
            if not events.done:
                response.close()
        self._router.let_go(response)
        if wait.left:
            raise ClientLeft
        if events.broken is not None:
            raise UpstreamFailed(model=job.ask.model.id, cause=events.broken)
        job.outcome = UsageRecorded.OUTCOME_COMPLETED
        return events.last(job.tokens)

    async def _begin(self, job: Job, attempt: Attempt, wait: Wait) -> _Streaming:
        """A stream with its first event. Raises AttemptFailed for one that has none."""
        response = await self._post(job, attempt, wait)
        events = EventStream(job.ask, _answer_id(job), int(job.started_at))
        try:
            while True:
                data = await read(response, wait, self._timeouts.first_byte)
                spans.heard(job, data)
                out = events.feed(data) if data else events.end()
                if out:
                    return _Streaming(attempt, response, events, out)
                if wait.left and (events.broken is not None or events.done):
                    raise ClientLeft
                if events.broken is not None or events.done:
                    raise AttemptFailed(events.broken or "the answer is empty")
        except BaseException:
            response.close()
            job.tokens = events.tokens() if wait.left else NONE
            raise

    async def _relay(self, job: Job, wait: Wait, begun: _Streaming) -> None:
        """Passes events on, in one wait for all of them, until the stream is done or broken."""
        events, client, response = begun.events, wait.client, begun.response
        unsent, idle, sending = begun.out, self._timeouts.idle, True

        def pass_on(data: bytes) -> bool:
            """Runs out of the connection, for each piece; the rest here only when it must wait."""
            nonlocal unsent
            out = events.feed(data)
            if events.produced and not job.first_token:
                job.token_came()
            wait.at_most(idle)
            if not client.offer(out):
                unsent = out
                return False
            return not (events.done or events.broken)

        try:
            with wait.at_most(STALL_SECONDS):
                if events.produced:
                    job.token_came()
                while True:
                    out, unsent = unsent, b""
                    await client.send(out)
                    if events.done or events.broken is not None:
                        return
                    sending = False
                    wait.at_most(idle)
                    await response.pump(pass_on)
                    sending = True
                    wait.at_most(STALL_SECONDS)
                    if response.ended and not unsent:
                        unsent = events.end()
        except TookTooLong:
            if sending:
                job.outcome = UsageRecorded.OUTCOME_CANCELLED
                raise ClientStalled from None
            raise AttemptFailed("the answer stands still") from None
        except Disconnected:
            raise AttemptFailed("connection lost") from None

    def _post(
        self, job: Job, attempt: Attempt, wait: Wait, *, stream: bool = False
    ) -> Awaitable[Response]:
        """Asks the engine, to `stream` even what the client wants whole.

        From then on the client's leaving has the engine stop.
        """
        if wait.client.cancelled:
            raise ClientLeft
        stop = partial(self._router.stop, attempt) if attempt.cancel_path else None
        wait.when_left(stop, settle=SETTLE_SECONDS if stop is not None else 0.0)
        job.asked = True
        body = body_for(job.ask, attempt.name, attempt.limit_field, stream=stream)
        return post(attempt, body, wait, self._timeouts)


def _taker(job: Job, attempt: Attempt, *, gathers: bool) -> Taker:
    """What takes in the answer of `attempt`, for a client that wants it whole.

    With `gathers` the engine streams it all the same.
    """
    told = job.ask, _answer_id(job), int(job.started_at)
    if gathers:
        return Gathering(*told)
    # What a provider that is closed has done by then, nobody says: the prompt, at least. So it is
    # with embeddings, whose prompt is all the work, and of which no engine says how far it came.
    counts = attempt.served_by == WORKER and not job.ask.model.embeddings
    least = 0 if counts else job.ask.prompt_guess
    return Pieces(*told, OPERATIONS[job.operation].answer, least)


def _answer_id(job: Job) -> str:
    """The request's id, as the answer's: who has one can ask for the other."""
    digits = job.request_id.rpartition("_")[2]
    return f"chatcmpl_{digits}" if digits.isalnum() and digits.isascii() else new_id("chatcmpl")
