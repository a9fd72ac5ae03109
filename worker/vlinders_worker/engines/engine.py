"""An engine as the agent sees it: a slot, its state, and how to ask it."""

from collections.abc import Callable
from typing import Protocol

from vlinders.gpu_scheduler.v1.workers_pb2 import Slot
from vlinders_kit import logs
from vlinders_worker.engines.configuration import Configuration, LlamaCpp
from vlinders_worker.engines.upstream import Upstream
from vlinders_worker.meters import METERS, Meter

log = logs.get(__name__)


class Engine(Protocol):
    slot: "SlotState"

    async def run(self) -> None:
        """Keeps the engine up, or watches it, until cancelled; then ends what it started."""
        ...

    def upstream(self, *, silence_seconds: float) -> Upstream: ...


class SlotState:
    """What the scheduler is told of an engine. `changed` is called with each change."""

    def __init__(self, configuration: Configuration, changed: Callable[[], None]) -> None:
        self.configuration = configuration
        self.state: Slot.State = Slot.STATE_LOADING
        self.message = ""
        self._changed = changed

    @property
    def id(self) -> str:
        return self.configuration.id

    @property
    def ready(self) -> bool:
        return self.state == Slot.STATE_READY

    def turn(self, state: Slot.State, message: str = "") -> None:
        if (state, message) == (self.state, self.message):
            return
        self.state, self.message = state, message
        name = Slot.State.Name(state).removeprefix("STATE_")
        log.info("slot_changed", slot_id=self.id, state=name, message=message)
        self._changed()

    def meter(self) -> Meter:
        """A new meter, of the kind that this engine's answers need."""
        kept = self.configuration
        return METERS["timings" if isinstance(kept, LlamaCpp) else kept.counts]()

    def told(self) -> Slot:
        kept = self.configuration
        return Slot(
            id=kept.id,
            model=kept.model,
            engine=str(kept.__struct_config__.tag),
            state=self.state,
            parallel=kept.parallel,
            context_length=kept.context_length,
            embeddings=kept.embeddings,
            message=self.message,
        )
