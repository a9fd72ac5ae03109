"""The scheduler: a hub while this replica owns the fleet; a standby has nothing but an answer."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from vlinders_gpu_scheduler import measures, registry
from vlinders_gpu_scheduler.doubt import TICK
from vlinders_gpu_scheduler.errors import NotActive
from vlinders_gpu_scheduler.hub import Bounds, Hub
from vlinders_gpu_scheduler.ownership import TRY_SECONDS, Ownership
from vlinders_gpu_scheduler.registry import Registry
from vlinders_gpu_scheduler.tickets import TicketKeys
from vlinders_kit import logs
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database

FLEET = "fleet"
"""The resource that the active replica owns."""

TIDY_SECONDS = 3600.0
MEASURE_SECONDS = 5.0
"""Between two counts of the fleet, which cost a millisecond for a thousand workers."""

log = logs.get(__name__)


@dataclass(frozen=True)
class Standing:
    """How a replica stands, for its health."""

    active: bool = False
    """It has the fleet."""

    alarmed: bool = False
    """So many workers are silent that the hub doubts what it sees."""


Told = Callable[[Standing], Awaitable[None]]


async def _nobody(standing: Standing) -> None:
    """For whom it is all the same."""


class Scheduler:
    """`told` hears how this replica stands, whenever that changes."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        keys: TicketKeys,
        bounds: Bounds,
        *,
        holder: str,
        told: Told = _nobody,
    ) -> None:
        self.db = db
        self._clock = clock
        self._keys = keys
        self._bounds = bounds
        self._ownership = Ownership(db, FLEET, holder)
        self._hub: Hub | None = None
        self._told = told
        self._draining = False

    @property
    def active(self) -> Hub | None:
        return self._hub

    @property
    def hub(self) -> Hub:
        """Raises NotActive on a standby."""
        if self._hub is None:
            raise NotActive
        return self._hub

    async def run(self) -> None:
        """Takes turns at being active, until cancelled."""
        while not self._draining:
            term = await self._ownership.take()
            try:
                await self._serve(term)
            except Exception as error:  # without the rows there is no hub: leave it to another
                log.error("hub_failed", exc_info=error)
                await self._ownership.release()
                await asyncio.sleep(TRY_SECONDS)
        await asyncio.get_running_loop().create_future()  # the process ends, and this with it

    async def drain(self) -> None:
        """Hands the fleet over: streams end, changes are written, another may follow at once."""
        self._draining = True
        if self._hub is not None:
            self._hub.close(NotActive())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await self._hub.registry.settled()
            self._hub = None
        await self._ownership.release()
        self._ownership.poke()

    async def _serve(self, term: int) -> None:
        """Is the hub for as long as the term lasts."""
        writer = Registry(self.db, self._clock, FLEET, term)
        hub = Hub(self._clock, writer, self._keys, self._bounds)
        async with self.db.begin() as tx:
            await registry.forget(tx, self._clock.now())
            for registration in await tx.scalars(registry.living()):
                hub.adopt(registration)
        log.info("active", term=term, workers=len(hub.fleet.workers))
        self._hub = hub
        await self._told(Standing(active=True))
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(work)
                    for work in (writer.run(), self._tick(hub), self._measure(hub), self._tidy())
                ]
                await self._ownership.keep()
                for task in running:
                    task.cancel()
        finally:
            self._hub = None
            hub.close(NotActive())
            measures.standby()
            await self._told(Standing())

    async def _tick(self, hub: Hub) -> None:
        doubt, alarmed = hub.fleet.doubt, False
        while True:
            await asyncio.sleep(TICK)
            if hub.tick():
                log.warning("stalled")
                self._ownership.poke()
            if doubt.alarmed != alarmed:
                alarmed = doubt.alarmed
                measures.many_silent(alarmed)
                await self._told(Standing(active=True, alarmed=alarmed))

    async def _measure(self, hub: Hub) -> None:
        while True:
            measures.fleet(hub.fleet.workers.values())
            await asyncio.sleep(MEASURE_SECONDS)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            try:
                async with self.db.begin() as tx:
                    await registry.forget(tx, self._clock.now())
            except Exception as error:  # it comes again in an hour
                log.warning("not_tidied", error=type(error).__name__)
