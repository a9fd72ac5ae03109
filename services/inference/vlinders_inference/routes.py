"""Routes: which engine is asked for an answer, and which next when it does not begin one."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import aiohttp
from multidict import istr
from yarl import URL

from vlinders.gpu_scheduler.v1.picks_pb2 import Target
from vlinders_inference.breakers import RetryBudget
from vlinders_inference.engines import PATHS, Attempt, AttemptFailed, Refused
from vlinders_inference.errors import NoCapacity, UpstreamFailed, UpstreamRefused
from vlinders_inference.jobs import Job
from vlinders_inference.providers import Providers
from vlinders_kit import logs

WORKER = "worker"
"""Who served, in the records of what own workers did."""

WORKERS_TRIED = 2
"""Workers that are asked for one answer."""

CANCEL_SECONDS = 1.0
"""How long a worker may take to hear that it is to stop."""

END_SECONDS = 1.0
"""How long the end of a connection's answer may lag behind the end of what it says."""

T = TypeVar("T")

_TICKET = istr("vlinders-ticket")
_REQUEST_ID = istr("x-request-id")
_CONTENT_TYPE = istr("Content-Type")
_ACCEPT_ENCODING = istr("Accept-Encoding")

log = logs.get(__name__)


class Picker(Protocol):
    """The gpu-scheduler, as routing needs it."""

    async def pick(
        self,
        request_id: str,
        model: str,
        tenant_id: str,
        *,
        input_tokens: int,
        output_tokens: int,
        excluded: Sequence[str] = (),
    ) -> Target: ...

    def finished(self, request_id: str) -> None: ...


@dataclass(slots=True)
class _Order:
    """Where a job is on its way through the engines: own workers first, then providers."""

    workers_left: int
    offers: Iterator[Attempt]
    excluded: list[str]


class Router:
    """Finds engines for jobs, over one session to all workers and one to each provider."""

    def __init__(
        self, picker: Picker, workers: aiohttp.ClientSession, providers: Providers
    ) -> None:
        self._picker = picker
        self._workers = workers
        self._providers = providers
        self._budget = RetryBudget()
        self._errands: set[asyncio.Task[None]] = set()

    async def first(self, job: Job, start: Callable[[Attempt], Awaitable[T]]) -> T:
        """What `start` makes of the first engine that begins an answer for it.

        Raises NoCapacity where there is none to ask, UpstreamFailed when those that were asked
        failed, UpstreamRefused when one refused the request itself, and ClientLeft.
        """
        model = job.ask.model
        workers = WORKERS_TRIED if model.worker_model is not None else 0
        order = _Order(workers, self._providers.attempts(model, job.operation), [])
        self._budget.request()
        failure: UpstreamFailed | None = None
        while (attempt := await self._next(job, order)) is not None:
            if failure is not None and not self._budget.retry():
                break
            job.served_by = attempt.served_by
            try:
                return await _tried(attempt, start)
            except Refused as refused:
                raise UpstreamRefused(
                    model=model.id, upstream_status=refused.status, upstream_code=refused.code
                ) from None
            except AttemptFailed as failed:
                log.warning(
                    "attempt_failed",
                    request_id=job.request_id,
                    served_by=attempt.served_by,
                    worker_id=attempt.worker_id or None,
                    cause=failed.cause,
                )
                failure = UpstreamFailed(model=model.id, cause=failed.cause)
        raise failure or NoCapacity(model=model.id)

    def ended(self, job: Job) -> None:
        """The job is over: no engine works for it any more."""
        if job.picked:
            self._picker.finished(job.request_id)

    def stop(self, attempt: Attempt) -> None:
        """Has the worker of `attempt` stop soon; its answer then ends with what it has produced."""
        self._run(self._cancel(attempt))

    def let_go(self, response: aiohttp.ClientResponse) -> None:
        """Has the connection of an answer that was read used again, once its very end has come."""
        if not response.content.at_eof():
            self._run(_read_end(response))

    def _run(self, errand: Coroutine[Any, Any, None]) -> None:
        """Does in the background what nobody waits for, and what ends by itself soon."""
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def close(self) -> None:
        if self._errands:
            await asyncio.wait(self._errands, timeout=CANCEL_SECONDS)
        await self._workers.close()
        await self._providers.close()

    async def _next(self, job: Job, order: _Order) -> Attempt | None:
        if order.workers_left:
            order.workers_left -= 1
            ask = job.ask
            job.picked = True
            try:
                target = await self._picker.pick(
                    job.request_id,
                    ask.model.worker_model or "",
                    job.caller.tenant_id,
                    input_tokens=ask.prompt_guess,
                    output_tokens=ask.max_tokens,
                    excluded=order.excluded,
                )
            except NoCapacity:
                order.workers_left = 0
            else:
                order.excluded.append(target.worker_id)
                return self._to_worker(job, target)
        return next(order.offers, None)

    def _to_worker(self, job: Job, target: Target) -> Attempt:
        return Attempt(
            served_by=WORKER,
            session=self._workers,
            url=_url(target.address, f"/v1/{PATHS[job.operation]}"),
            headers={
                _CONTENT_TYPE: "application/json",
                _ACCEPT_ENCODING: "identity",
                _TICKET: target.ticket,
                _REQUEST_ID: job.request_id,
            },
            name=job.ask.model.worker_model or "",
            cancel_url=f"{target.address.rstrip('/')}/v1/requests/{job.request_id}/cancel",
            worker_id=target.worker_id,
        )

    async def _cancel(self, attempt: Attempt) -> None:
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                answer = await attempt.session.post(
                    attempt.cancel_url, headers=attempt.headers, allow_redirects=False
                )
                answer.release()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("cancel_failed", worker_id=attempt.worker_id, error=type(error).__name__)


async def _read_end(response: aiohttp.ClientResponse) -> None:
    try:
        async with asyncio.timeout(END_SECONDS):
            await response.content.readany()
    except (aiohttp.ClientError, OSError, RuntimeError, TimeoutError):
        pass
    response.close()  # a connection whose answer has ended has gone back by itself


async def _tried(attempt: Attempt, start: Callable[[Attempt], Awaitable[T]]) -> T:
    """`start`, with what it says of the engine told to the attempt's breaker."""
    breaker = attempt.breaker
    if breaker is None:
        return await start(attempt)
    breaker.begin()
    try:
        begun = await start(attempt)
    except AttemptFailed as failed:
        attempt.spoilt = failed.everywhere
        breaker.failed(time.monotonic(), failed.rest)
        raise
    except Refused:
        breaker.succeeded()
        raise
    except BaseException:
        breaker.abandoned()
        raise
    breaker.succeeded()
    return begun


@lru_cache(maxsize=4096)
def _url(address: str, path: str) -> URL:
    """Parsing an address costs more than all else that is done to send a request there."""
    return URL(address.rstrip("/") + path)
