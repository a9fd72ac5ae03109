"""Routes: which engine is asked for an answer, and which next when it does not begin one."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from vlinders.gpu_scheduler.v1.picks_pb2 import Target as Slot
from vlinders_inference import measures, spans
from vlinders_inference.breakers import RetryBudget
from vlinders_inference.connections import head_of
from vlinders_inference.engines import PATHS, Attempt, AttemptFailed, Refused
from vlinders_inference.errors import NoCapacity, UpstreamFailed, UpstreamRefused
from vlinders_inference.jobs import Job
from vlinders_inference.providers import Providers
from vlinders_inference.responses import Disconnected, Response
from vlinders_inference.workers import Workers
from vlinders_kit import logs, tracing

WORKER = "worker"
"""Who served, in the records of what own workers did."""

WORKERS_TRIED = 2
"""Workers that are asked for one answer."""

CANCEL_SECONDS = 1.0
"""How long a worker may take to hear that it is to stop."""

END_SECONDS = 1.0
"""How long the end of a connection's answer may lag behind the end of what it says."""

T = TypeVar("T")

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
        declined: bool = False,
    ) -> Slot: ...

    def finished(self, request_id: str) -> None: ...


class _Order(Struct, eq=False):
    """Where a job is on its way through the engines: own workers first, then providers."""

    workers_left: int
    offers: Iterator[Attempt]
    excluded: list[str]
    declined: bool = False
    """The last worker is there, and did not take it."""
    wait_seconds: int = NoCapacity.wait_seconds
    """When to come again, if nobody begins an answer."""


class Router:
    """Finds engines for jobs: own workers, as the scheduler picks them, then providers."""

    def __init__(self, picker: Picker, workers: Workers, providers: Providers) -> None:
        self._picker = picker
        self._workers = workers
        self._providers = providers
        self._budget = RetryBudget()
        self._errands: set[asyncio.Task[None]] = set()

    async def first(self, job: Job, start: Callable[[Attempt], Awaitable[T]]) -> T:
        """What `start` makes of the first engine that begins an answer for it.

        Raises NoCapacity where there is none to ask, or own workers had no room after all,
        UpstreamFailed when those that were asked failed, UpstreamRefused when one refused the
        request itself, and ClientLeft.
        """
        model = job.ask.model
        workers = WORKERS_TRIED if model.worker_model is not None else 0
        order = _Order(workers, self._providers.attempts(model, job.operation), [])
        self._budget.request()
        failure: UpstreamFailed | None = None
        again = False
        while True:
            if order.workers_left:
                attempt = await self._picked(job, order)
            else:
                attempt = next(order.offers, None)
            if attempt is None or (again and not self._budget.retry()):
                raise failure or NoCapacity(model=model.id, wait_seconds=order.wait_seconds)
            again = True
            job.served_by = attempt.served_by
            if job.span is not None:
                spans.asking(job, attempt)
            attempt.begin()
            try:
                begun = await start(attempt)
            except Refused as refused:
                attempt.answered()
                raise _refusal(job, refused) from None
            except AttemptFailed as failed:
                attempt.failed(failed)
                failure = _failure(job, attempt, failed)
                order.declined = failed.declined
            except BaseException:
                attempt.abandoned()
                raise
            else:
                attempt.answered()
                return begun

    def ended(self, job: Job) -> None:
        """The job is over: no engine works for it any more."""
        if job.picked:
            self._picker.finished(job.request_id)

    def stop(self, attempt: Attempt) -> None:
        """Has the worker of `attempt` stop soon; its answer then ends with what it has produced."""
        self._run(self._cancel(attempt))

    def let_go(self, response: Response) -> None:
        """Has the connection of an answer that was read used again, once its very end has come."""
        if not response.ended:
            self._run(_read_end(response))

    def _run(self, errand: Coroutine[Any, Any, None]) -> None:
        """Does in the background what nobody waits for, and what ends by itself soon."""
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def close(self) -> None:
        if self._errands:
            await asyncio.wait(self._errands, timeout=CANCEL_SECONDS)
        self._workers.close()
        self._providers.close()

    async def _picked(self, job: Job, order: _Order) -> Attempt | None:
        """The worker that the scheduler picks; where there is none, the first of the providers."""
        order.workers_left -= 1
        ask = job.ask
        job.picked = True
        try:
            with tracing.step("pick"):
                slot = await self._picker.pick(
                    job.request_id,
                    ask.model.worker_model or "",
                    job.caller.tenant_id,
                    input_tokens=ask.prompt_guess,
                    output_tokens=ask.max_tokens,
                    excluded=order.excluded,
                    declined=order.declined,
                )
        except NoCapacity as full:
            order.workers_left, order.wait_seconds = 0, full.wait_seconds
            job.picked = False  # of a request that has no slot the scheduler counts none
            return next(order.offers, None)
        order.excluded.append(slot.worker_id)
        return self._to_worker(job, slot)

    def _to_worker(self, job: Job, slot: Slot) -> Attempt:
        target = self._workers.target(slot)
        headers = {
            "Accept-Encoding": "identity",
            "vlinders-ticket": slot.ticket,
            "x-request-id": job.request_id,
        }
        return Attempt(
            served_by=WORKER,
            target=target,
            head=head_of(f"/v1/{PATHS[job.operation]}", target.host_header, headers),
            name=job.ask.model.worker_model or "",
            worker_id=slot.worker_id,
            headers=headers,
            cancel_path=f"/v1/requests/{job.request_id}/cancel",
        )

    async def _cancel(self, attempt: Attempt) -> None:
        head = head_of(attempt.cancel_path, attempt.target.host_header, attempt.headers)
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                answer = await attempt.target.post(head, b"")
                while not answer.ended:
                    await answer.read()
        except (Disconnected, TimeoutError) as error:
            log.warning("cancel_failed", worker_id=attempt.worker_id, error=type(error).__name__)


async def _read_end(response: Response) -> None:
    try:
        async with asyncio.timeout(END_SECONDS):
            await response.read()
    except (Disconnected, TimeoutError):
        pass
    response.close()


def _refusal(job: Job, refused: Refused) -> UpstreamRefused:
    spans.unanswered(job, f"status {refused.status}")
    return UpstreamRefused(
        model=job.ask.model.id, upstream_status=refused.status, upstream_code=refused.code
    )


def _failure(job: Job, attempt: Attempt, failed: AttemptFailed) -> UpstreamFailed | None:
    """What the client is told if nobody else answers; None: that there was no room."""
    spans.unanswered(job, failed.cause)
    measures.attempt_failed(attempt.served_by)
    log.warning(
        "attempt_failed",
        request_id=job.request_id,
        served_by=attempt.served_by,
        worker_id=attempt.worker_id or None,
        cause=failed.cause,
    )
    return None if failed.declined else UpstreamFailed(model=job.ask.model.id, cause=failed.cause)
