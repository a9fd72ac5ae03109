"""The registry: what is kept of workers, by one writer that nobody waits for but who registers.

Epochs are issued here. Everything else is noted and written soon, in batches, the latest state of
a worker only: while the database is away workers beat and are picked as before, and what changed is
written when it is back. The events of what changed go with the rows, in the same transaction.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, delete, select, text

from vlinders.gpu_scheduler.v1.events_pb2 import WorkerStateChanged
from vlinders_gpu_scheduler import ownership
from vlinders_gpu_scheduler.errors import NotActive, RegistryUnavailable, WorkerDrained
from vlinders_gpu_scheduler.models import Registration
from vlinders_gpu_scheduler.states import Move, State
from vlinders_gpu_scheduler.workers import Hello, Worker
from vlinders_kit import logs
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database, Tx
from vlinders_kit.events import publish
from vlinders_kit.outages import Outage

BATCH = 200
"""Registrations, and changes, of one transaction."""

EVENTS = 10_000
"""Events that wait for a database that is away. The oldest are given up: who missed them asks."""

PATIENCE_SECONDS = 5.0
"""What one transaction may take, connecting included."""

KEPT = timedelta(days=30)
"""How long a worker that is offline is remembered."""

_REGISTER = text("""
    INSERT INTO registration (
        id, boot_id, epoch, address, host_name, agent_version, inventory, pretended,
        state, state_since
    ) VALUES (
        :id, :boot_id, nextval('worker_epoch'), :address, :host_name, :agent_version, :inventory,
        :pretended, 'REGISTERING', :now
    )
    ON CONFLICT (id) DO UPDATE SET
        boot_id = excluded.boot_id, epoch = excluded.epoch, address = excluded.address,
        host_name = excluded.host_name, agent_version = excluded.agent_version,
        inventory = excluded.inventory, pretended = excluded.pretended, state = excluded.state,
        state_since = excluded.state_since, drained = false, registered_at = now()
    WHERE NOT (registration.drained AND registration.boot_id = excluded.boot_id)
    RETURNING epoch
""")
_MOVE = text("""
    UPDATE registration
    SET state = :state, state_since = :since, drained = drained OR :drained
    WHERE id = :id AND epoch = :epoch
""")
_RENEW = text("""
    UPDATE registration SET address = :address, inventory = :inventory, pretended = :pretended
    WHERE id = :id AND epoch = :epoch
""")

log = logs.get(__name__)


@dataclass(frozen=True)
class _Row:
    """What has changed of one worker in one epoch."""

    epoch: int
    state: State | None = None
    since: datetime | None = None
    drained: bool = False
    told: dict[str, Any] | None = None


class Registry:
    """The writer of one hub, in its term of ownership."""

    def __init__(self, db: Database, clock: Clock, resource: str, term: int) -> None:
        self._db = db
        self._clock = clock
        self._resource = resource
        self._term = term
        self._arrivals: deque[tuple[Hello, asyncio.Future[int]]] = deque()
        self._rows: dict[str, _Row] = {}
        self._events: deque[WorkerStateChanged] = deque(maxlen=EVENTS)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def register(self, hello: Hello) -> int:
        """A new epoch for the worker. Raises RegistryUnavailable, WorkerDrained and NotActive."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._arrivals.append((hello, future))
        self._stir()
        return await future

    def moved(self, worker: Worker, move: Move) -> None:
        """Notes the worker's state."""
        row = self._row(worker)
        drained = row.drained or move.now is State.DRAINING
        self._rows[worker.id] = replace(row, state=move.now, since=worker.since, drained=drained)
        self._events.append(_event(worker.id, worker.epoch, move.was, move.now, move.reason))
        self._stir()

    def changed(self, worker: Worker) -> None:
        """Notes what the worker says of itself."""
        told = {
            "address": worker.hello.address,
            "inventory": worker.inventory.body,
            "pretended": worker.inventory.pretended,
        }
        self._rows[worker.id] = replace(self._row(worker), told=told)
        self._stir()

    async def settled(self) -> None:
        """Returns when all that was noted is written."""
        await self._idle.wait()

    async def run(self) -> None:
        """Writes, until cancelled."""
        away = Outage("database", longest=2.0)
        try:
            while True:
                await self._wake.wait()
                try:
                    await self._write()
                    away.over()
                except NotActive:
                    self._rows.clear()  # they are another's to write now
                    self._events.clear()
                except Exception as error:  # the database's, mostly; none must end the hub
                    await away.wait(error)
                if not (self._arrivals or self._rows or self._events):
                    self._wake.clear()
                    self._idle.set()
        finally:
            _refuse([future for _, future in self._arrivals], NotActive())

    async def _write(self) -> None:
        """Writes a batch. What fails is noted again; who waits to be registered is told."""
        arrivals = [self._arrivals.popleft() for _ in range(min(BATCH, len(self._arrivals)))]
        rows = dict(list(self._rows.items())[:BATCH])
        events = list(self._events)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self._db.begin() as tx:
                await ownership.require(tx, self._resource, self._term)
                epochs = [await self._admit(tx, hello) for hello, _ in arrivals]
                await self._update(tx, rows)
                await publish(tx, *events, *_registrations(arrivals, epochs))
        except BaseException as error:
            told = error if isinstance(error, NotActive) else RegistryUnavailable()
            _refuse([future for _, future in arrivals], told)
            raise
        self._forget(rows, events)
        for (hello, future), epoch in zip(arrivals, epochs, strict=True):
            if future.done():
                continue
            if epoch is None:
                future.set_exception(WorkerDrained(worker_id=hello.worker_id))
            else:
                future.set_result(epoch)

    async def _admit(self, tx: Tx, hello: Hello) -> int | None:
        values = {
            "id": hello.worker_id,
            "boot_id": hello.boot_id,
            "address": hello.address,
            "host_name": hello.host_name,
            "agent_version": hello.agent_version,
            "inventory": hello.inventory.body,
            "pretended": hello.inventory.pretended,
            "now": self._clock.now(),
        }
        epoch: int | None = await tx.scalar(_REGISTER, values)
        return epoch

    async def _update(self, tx: Tx, rows: dict[str, _Row]) -> None:
        keys = {id: {"id": id, "epoch": row.epoch} for id, row in rows.items()}
        moved = [
            {**keys[id], "state": row.state, "since": row.since, "drained": row.drained}
            for id, row in rows.items()
            if row.state is not None
        ]
        renewed = [{**keys[id], **row.told} for id, row in rows.items() if row.told is not None]
        if moved:
            await tx.execute(_MOVE, moved)
        if renewed:
            await tx.execute(_RENEW, renewed)

    def _forget(self, rows: dict[str, _Row], events: Sequence[WorkerStateChanged]) -> None:
        for id, row in rows.items():
            if self._rows.get(id) is row:  # else it has changed since
                del self._rows[id]
        for event in events:
            if self._events and self._events[0] is event:  # else it was given up meanwhile
                self._events.popleft()

    def _row(self, worker: Worker) -> _Row:
        row = self._rows.get(worker.id)
        return row if row is not None and row.epoch == worker.epoch else _Row(worker.epoch)

    def _stir(self) -> None:
        self._idle.clear()
        self._wake.set()


def living() -> Select[tuple[Registration]]:
    """The workers whose lease nobody has found over."""
    return select(Registration).where(Registration.state != State.OFFLINE)


def remembered() -> Select[tuple[Registration]]:
    """The workers that are remembered."""
    return select(Registration)


async def forget(tx: Tx, now: datetime) -> None:
    """Deletes workers that have been offline for longer than they are remembered."""
    offline = Registration.state == State.OFFLINE
    await tx.execute(delete(Registration).where(offline, Registration.state_since < now - KEPT))


def _refuse(waiting: Sequence[asyncio.Future[int]], error: Exception) -> None:
    for future in waiting:
        if not future.done():
            future.set_exception(error)


def _registrations(
    arrivals: Sequence[tuple[Hello, Any]], epochs: Sequence[int | None]
) -> list[WorkerStateChanged]:
    return [
        _event(hello.worker_id, epoch, State.OFFLINE, State.REGISTERING, "hello")
        for (hello, _), epoch in zip(arrivals, epochs, strict=True)
        if epoch is not None
    ]


def _event(id: str, epoch: int, was: State, now: State, reason: str) -> WorkerStateChanged:
    return WorkerStateChanged(
        worker_id=id, epoch=epoch, from_state=was, to_state=now, reason=reason
    )
