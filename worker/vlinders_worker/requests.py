"""The requests on this worker: those that run, and what became of the last ones."""

import asyncio
import hmac
from collections import OrderedDict, defaultdict
from collections.abc import Callable

from vlinders_worker.errors import RequestNotFound, RequestRuns, TicketNotValid
from vlinders_worker.generations import Generation

REMEMBERED = 4_096
"""Ended requests that are remembered: a ticket cannot start the same one twice."""


class Requests:
    """`changed` is called when one begins or ends."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._running: dict[str, Generation] = {}
        self._ended: OrderedDict[str, Generation] = OrderedDict()
        self._cancelled: OrderedDict[str, str] = OrderedDict()
        """Tickets of requests that were cancelled before they came, by request."""
        self._untold: defaultdict[str, list[str]] = defaultdict(list)
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self, generation: Generation) -> None:
        """Raises RequestRuns for an id that runs, or has run here and brought something."""
        id = generation.request_id
        before = self._running.get(id) or self._ended.get(id)
        if before is not None and not before.came_to_nothing:
            raise RequestRuns(request_id=id)
        self._running[id] = generation
        if self._cancelled.pop(id, None) == generation.ticket:
            generation.cancel()
        self._idle.clear()
        self._changed()

    def end(self, generation: Generation) -> None:
        id = generation.request_id
        del self._running[id]
        self._ended[id] = generation
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        self._untold[generation.slot_id].append(id)
        if not self._running:
            self._idle.set()
        self._changed()

    def cancel(self, id: str, ticket: str) -> None:
        """Stops the request that `ticket` has started, or will start: on another connection, a
        cancel may be quicker than what it is about.

        Raises TicketNotValid for any other ticket, and RequestNotFound while there is none.
        """
        try:
            generation = self.find(id)
        except RequestNotFound:
            self._cancelled[id] = ticket
            if len(self._cancelled) > REMEMBERED:
                self._cancelled.popitem(last=False)
            raise
        if not hmac.compare_digest(ticket.encode(), generation.ticket.encode()):
            raise TicketNotValid
        generation.cancel()

    def find(self, id: str) -> Generation:
        """One that runs or has ended not long ago. Raises RequestNotFound."""
        found = self._running.get(id) or self._ended.get(id)
        if found is None:
            raise RequestNotFound(request_id=id)
        return found

    def __len__(self) -> int:
        """How many run."""
        return len(self._running)

    @property
    def running(self) -> list[str]:
        return list(self._running)

    def running_by_slot(self) -> dict[str, list[str]]:
        by_slot: defaultdict[str, list[str]] = defaultdict(list)
        for id, generation in self._running.items():
            by_slot[generation.slot_id].append(id)
        return by_slot

    def take_ended(self) -> dict[str, list[str]]:
        """By slot, the ids that have ended since the last call."""
        taken, self._untold = self._untold, defaultdict(list)
        return taken

    def cut(self, why: str) -> None:
        """Stops all that run."""
        for generation in list(self._running.values()):
            generation.cut(why)

    async def until_idle(self) -> None:
        await self._idle.wait()
