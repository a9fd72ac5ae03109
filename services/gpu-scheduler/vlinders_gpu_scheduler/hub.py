"""The hub: fleet, picks and registry as one, for as long as this replica is active.

What is true of workers is in the fleet; what that means for picks and the database follows here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import random

from vlinders_gpu_scheduler import inventories, tickets
from vlinders_gpu_scheduler.admission import Admission
from vlinders_gpu_scheduler.errors import NotActive
from vlinders_gpu_scheduler.fleet import Fleet
from vlinders_gpu_scheduler.models import Registration
from vlinders_gpu_scheduler.picks import Asker, Picks
from vlinders_gpu_scheduler.registry import Registry
from vlinders_gpu_scheduler.slots import Slot
from vlinders_gpu_scheduler.states import Move, State, Timers
from vlinders_gpu_scheduler.tickets import TicketKeys
from vlinders_gpu_scheduler.workers import Hello, Inventory, Line, Worker
from vlinders_kit.clock import Clock


@dataclass(frozen=True)
class Bounds:
    """What a hub is held to."""

    timers: Timers = field(default_factory=Timers)
    overcommit: float = 0.25
    """Requests that a slot is given beyond its parallel ones, as a share of them; at least one."""

    hellos_per_second: float = 500.0
    beats_per_second: float = 2500.0
    """More workers than this allows beat less often."""


class Hub:
    def __init__(self, clock: Clock, registry: Registry, keys: TicketKeys, bounds: Bounds) -> None:
        self.clock = clock
        self.registry = registry
        self.fleet = Fleet(
            clock,
            bounds.timers,
            beats_per_second=bounds.beats_per_second,
            changed=self._moved,
        )
        self.picks = Picks(overcommit=bounds.overcommit, random=random)
        self.askers: set[Asker] = set()
        self._keys = keys
        self._admission = Admission(clock, bounds.hellos_per_second)
        self._closed = False

    def adopt(self, registration: Registration) -> None:
        """Takes over a worker that another hub, or this one before a restart, has registered.

        It keeps its epoch, is picked as before, and has the time that a new hub gives to everybody.
        """
        row = registration
        inventory = inventories.parse(row.inventory)
        hello = Hello(
            row.id, row.boot_id, row.address, row.host_name, row.agent_version, 0, inventory, ()
        )
        key = self._keys.of(row.id, row.epoch)
        worker = self.fleet.adopt(hello, row.epoch, key, State(row.state), row.state_since)
        self.picks.place(worker)

    async def connect(self, hello: Hello, line: Line) -> Worker:
        """The worker, on `line` from now on: in its epoch if that goes on, else in a new one.

        Raises TooManyHellos, RegistryUnavailable, WorkerDrained, StaleEpoch and NotActive.
        """
        self._require_open()
        self._admission.take()
        worker = self._resume(hello, line)
        if worker is None:
            epoch = await self.registry.register(hello)
            self._require_open()
            key = self._keys.of(hello.worker_id, epoch)
            worker = self.fleet.register(hello, epoch, key, line)
        self.picks.place(worker)
        self.picks.resumed(worker, hello.running)
        return worker

    def take_inventory(self, worker: Worker, inventory: Inventory) -> None:
        before, worker.inventory = worker.inventory, inventory
        if inventory.lasting != before.lasting:
            self.picks.place(worker)
            self.registry.changed(worker)

    def pick(
        self,
        request_id: str,
        model: str,
        excluded: Sequence[str],
        asker: Asker,
        *,
        declined: bool = False,
    ) -> Slot:
        """The slot for a request. Raises NoWorker.

        The last of the excluded workers is the one that has just failed it, or `declined` it. That
        is no failure: who is suspect is asked whether it lives, and who has too much to do is late
        to answer.
        """
        if excluded and not declined:
            self.fleet.failed(excluded[-1])
        return self.picks.pick(request_id, model, excluded, asker, self.clock.monotonic())

    def leave(self, asker: Asker) -> None:
        """The stream of an inference replica is over."""
        self.askers.discard(asker)
        self.picks.leave(asker, self.clock.monotonic())

    def ticket(self, slot: Slot, request_id: str, now: float) -> str:
        worker = slot.worker
        return tickets.sign(
            worker.key,
            worker_id=worker.id,
            slot_id=slot.id,
            epoch=worker.epoch,
            request_id=request_id,
            now=now,
        )

    def tick(self) -> bool:
        """Does what is due; True after a stall of our own."""
        self.picks.tick(self.clock.monotonic())
        return self.fleet.tick()

    def close(self, error: Exception) -> None:
        """Ends all streams: who comes again finds another hub."""
        self._closed = True
        self.fleet.close(error)
        for asker in self.askers:
            asker.close(error)

    def _resume(self, hello: Hello, line: Line) -> Worker | None:
        known = self.fleet.workers.get(hello.worker_id)
        before = None if known is None else (known.hello.address, known.inventory.lasting)
        worker = self.fleet.resume(hello, line)
        if worker is not None and before != (hello.address, hello.inventory.lasting):
            self.registry.changed(worker)
        return worker

    def _require_open(self) -> None:
        if self._closed:
            raise NotActive

    def _moved(self, worker: Worker, move: Move) -> None:
        self.registry.moved(worker, move)
        if State.SUSPECT in (move.was, move.now):
            for asker in self.askers:
                asker.suspect()
        if move.now is State.OFFLINE:
            self.picks.remove(worker)
        else:
            self.picks.place(worker)
