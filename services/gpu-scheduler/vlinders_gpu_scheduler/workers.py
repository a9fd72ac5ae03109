"""Workers as the hub knows them: their own words, their life, their slots, their stream."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from vlinders_gpu_scheduler.slots import Slot
from vlinders_gpu_scheduler.states import Life

NO_BOUND = 1 << 30
"""More requests than any worker has."""


@dataclass(frozen=True)
class Offer:
    """A slot as its worker tells it: one model on one engine."""

    id: str
    model: str
    parallel: int
    ready: bool


@dataclass(frozen=True)
class Inventory:
    """What a worker has."""

    offers: tuple[Offer, ...]
    body: bytes
    """All of it, as it was sent; for whoever looks."""

    lasting: bytes
    """What of it is worth writing down: not its measurements, which change with every look."""

    pretended: bool
    """Some of its GPUs exist in a file only."""


@dataclass(frozen=True)
class Hello:
    """A worker's first words on a stream."""

    worker_id: str
    boot_id: str
    address: str
    host_name: str
    agent_version: str
    last_epoch: int
    inventory: Inventory
    running: Sequence[str]


class Line(Protocol):
    """The way to a worker: its stream."""

    def drain(self, seconds: float) -> None:
        """Has the worker finish what runs."""

    def close(self, error: Exception | None = None) -> None:
        """Ends the stream; with an error, the worker is told why."""


@dataclass(eq=False)
class Worker:
    """A worker in one epoch."""

    hello: Hello
    epoch: int
    key: bytes
    """Signs its tickets."""

    life: Life
    since: datetime
    """When it came into its state."""

    inventory: Inventory
    line: Line | None = None
    slots: dict[str, Slot] = field(default_factory=dict)
    unplaced: set[str] = field(default_factory=set)
    """Requests that it said run on it before it said on which slot: they count on each."""

    most: int = NO_BOUND
    """Requests that its agent takes at a time, which are fewer while that is late. No slot is given
    more; should several together be, the agent declines."""

    @property
    def id(self) -> str:
        return self.hello.worker_id

    @property
    def running(self) -> int:
        return len(self.unplaced) + sum(len(slot.running) for slot in self.slots.values())
