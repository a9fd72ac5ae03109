"""The fleet: all workers that live, each in one epoch, on one stream. No I/O; a clock is given.

Beats, silence and broken streams move the states of `states`; what the hub doubts about itself
(`doubt`) decides whether silence counts. Whoever must know of a move is told by `changed`.
"""

from collections.abc import Callable
from datetime import datetime

from vlinders_gpu_scheduler.doubt import Doubt
from vlinders_gpu_scheduler.errors import StaleEpoch
from vlinders_gpu_scheduler.states import Life, Move, State, Timers
from vlinders_gpu_scheduler.workers import Hello, Line, Worker
from vlinders_kit import logs
from vlinders_kit.clock import Clock

log = logs.get(__name__)

Changed = Callable[[Worker, Move], None]

NOTICEABLE = 1.1
"""By so much beats must be to become longer before a worker is told."""


class Fleet:
    def __init__(
        self, clock: Clock, timers: Timers, *, beats_per_second: float, changed: Changed
    ) -> None:
        self.workers: dict[str, Worker] = {}
        self.suspects: set[Worker] = set()
        self.doubt = Doubt(timers, clock.monotonic())
        self._clock = clock
        self._timers = timers
        self._beats_per_second = beats_per_second
        self._at_ease = beats_per_second * timers.beat
        self._changed = changed

    @property
    def timers(self) -> Timers:
        """What a worker that comes now is to keep."""
        return self._timers.stretched(len(self.workers), beats_per_second=self._beats_per_second)

    def adopt(self, hello: Hello, epoch: int, key: bytes, state: State, since: datetime) -> Worker:
        """Takes over a worker that was known before this hub began: it has time to be heard.

        It has been in `state` `since` then, whoever was its hub.
        """
        life = Life(self.timers, self._clock.monotonic(), state=state, adopted=True)
        worker = Worker(hello, epoch, key, life, since, hello.inventory)
        self.workers[worker.id] = worker
        if state is State.SUSPECT:
            self.suspects.add(worker)
        return worker

    def resume(self, hello: Hello, line: Line) -> Worker | None:
        """The worker on its new stream, if its epoch goes on: same agent, lease not over."""
        worker = self.workers.get(hello.worker_id)
        if worker is None or worker.hello.boot_id != hello.boot_id:
            return None
        if worker.epoch != hello.last_epoch:
            return None
        self._hang_up(worker, StaleEpoch(worker_id=worker.id, epoch=worker.epoch))
        worker.line = line
        worker.hello = hello
        worker.inventory = hello.inventory
        worker.life.hear(self._clock.monotonic())
        return worker

    def close(self, error: Exception) -> None:
        """Lets all streams go, and moves nobody: another hub goes on from here."""
        for worker in self.workers.values():
            self._hang_up(worker, error)

    def register(self, hello: Hello, epoch: int, key: bytes, line: Line) -> Worker:
        """A worker in a new epoch. Raises StaleEpoch where a newer one was faster."""
        before = self.workers.get(hello.worker_id)
        if before is not None:
            if before.epoch >= epoch:
                raise StaleEpoch(worker_id=hello.worker_id, epoch=epoch)
            self._move(before, before.life.end("registered again"))
        life = Life(self.timers, self._clock.monotonic())
        worker = Worker(hello, epoch, key, life, self._clock.now(), hello.inventory, line)
        self.workers[worker.id] = worker
        return worker

    def require(self, worker: Worker, line: Line, epoch: int) -> None:
        """Raises StaleEpoch unless `line` speaks for the worker, and of the epoch that it is in."""
        if worker.line is not line or worker.epoch != epoch:
            raise StaleEpoch(worker_id=worker.id, epoch=epoch)

    def beat(self, worker: Worker, *, deaf: bool = False) -> Timers | None:
        """Hears a beat. Answers what the worker is to keep from now on, where that has changed:
        in a fleet that has grown, longer beats with longer leases.

        A `deaf` worker has heard none of our last answers: it lives, but starts nothing any more.
        Unless we have stalled: then we have not answered, and what comes at once has waited for us.
        """
        life, now = worker.life, self._clock.monotonic()
        stalled = self.doubt.stalled(now)
        if deaf and not stalled:
            life.hear(now)
            self._move(worker, life.suspect(now, "hears nothing"))
            return None
        self._move(worker, life.beat(now, held_up=stalled))
        if len(self.workers) <= self._at_ease:
            return None
        wanted = self.timers
        if wanted.beat < life.timers.beat * NOTICEABLE:
            return None
        life.stretch(wanted)
        return wanted

    def lose(self, worker: Worker, line: Line) -> None:
        """The stream broke. If it was the worker's own, it is suspect at once.

        Unless we have stalled: then it is likely that we broke it, and silence alone counts.
        """
        if worker.line is not line:
            return
        worker.line = None
        now = self._clock.monotonic()
        if not self.doubt.stalled(now):
            self._move(worker, worker.life.suspect(now, "stream lost"))

    def leave(self, worker: Worker) -> None:
        """The worker has said goodbye: nothing runs on it."""
        self._hang_up(worker, None)
        self._move(worker, worker.life.end("goodbye"))

    def drain(self, worker_id: str) -> Worker | None:
        """Has the worker finish what runs; None where there is none that lives."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return None
        self._move(worker, worker.life.drain(self._clock.monotonic()))
        if worker.line is not None and worker.life.state is State.DRAINING:
            worker.line.drain(worker.life.timers.drain)
        return worker

    def failed(self, worker_id: str) -> None:
        """A request could not be begun on the worker."""
        worker = self.workers.get(worker_id)
        if worker is not None:
            self._move(worker, worker.life.failed(self._clock.monotonic()))

    def tick(self) -> bool:
        """Makes the moves that are due. To be called every TICK; True after a stall of our own."""
        now = self._clock.monotonic()
        stalled = self.doubt.look(now)
        if stalled:
            for worker in self.workers.values():
                worker.life.restart(now)
        self._weigh(now)
        due_before = now - self.doubt.lag(now)
        due = [worker for worker in self.workers.values() if worker.life.due <= due_before]
        for worker in sorted(due, key=lambda worker: worker.life.due):
            if not worker.life.by_silence(now) or self.doubt.may_end(now):
                self._move(worker, worker.life.expire(now))
        return stalled

    def _weigh(self, now: float) -> None:
        silent = [w for w in self.suspects if w.line is None or w.life.silent(now)]
        fallen = sum(now - w.life.suspected_at <= w.life.timers.lease for w in silent)
        before = self.doubt.alarmed
        self.doubt.weigh(now, fallen=fallen, silent=len(silent), living=len(self.workers))
        if self.doubt.alarmed != before:
            tell = log.error if self.doubt.alarmed else log.info
            tell(
                "many_workers_silent",
                alert=self.doubt.alarmed,
                silent=len(silent),
                workers=len(self.workers),
            )

    def _hang_up(self, worker: Worker, error: Exception | None) -> None:
        line, worker.line = worker.line, None
        if line is not None:
            line.close(error)

    def _move(self, worker: Worker, move: Move | None) -> None:
        if move is None:
            return
        worker.since = self._clock.now()
        if move.now is State.SUSPECT:
            self.suspects.add(worker)
        else:
            self.suspects.discard(worker)
        if move.now is State.OFFLINE:
            del self.workers[worker.id]
            self._hang_up(worker, StaleEpoch(worker_id=worker.id, epoch=worker.epoch))
        log.info(
            "worker_moved",
            worker=worker.id,
            epoch=worker.epoch,
            was=move.was,
            now=move.now,
            reason=move.reason,
        )
        self._changed(worker, move)
