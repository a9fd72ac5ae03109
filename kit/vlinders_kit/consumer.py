"""The consumer: lets what comes over the bus take effect in a service, once."""

import asyncio
import random
import time
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID
from weakref import WeakValueDictionary

from prometheus_client import Counter
from sqlalchemy import text

from vlinders_kit import logs, metrics
from vlinders_kit.bus import RETENTION, Bus, BusUnavailable, Envelope, dead_letters
from vlinders_kit.db import Database, unavailable
from vlinders_kit.events import Handlers
from vlinders_kit.outages import Backoff, Outage

TRIES = 5
"""How often an event is tried alone before it is given up."""

LARGE = 200
"""Events of a batch that is worth its transaction: the next one is fetched at once."""

PRUNE_SECONDS = 3600.0
PRUNE_BATCH = 5_000

_PRUNE = text("""
    DELETE FROM inbox WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM inbox WHERE at < now() - make_interval(secs => :seconds)
        ORDER BY at LIMIT :batch FOR UPDATE SKIP LOCKED
    ))
""")

_TAKEN = Counter("vlinders_events_taken_total", "Events that came over the bus.", ["group"])
_DEAD = Counter("vlinders_events_dead_total", "Events given up.", ["group", "type"])

_WORKING: WeakValueDictionary[str, "Consumer"] = WeakValueDictionary()
"""By group."""

log = logs.get(__name__)


class Consumer:
    """The service's member of `group`: what comes from `topics` goes to `handlers`.

    What was fetched together takes effect in one transaction; if that fails, each event in its own.
    One that fails TRIES times goes to `<topic>.dead`, counted and logged as an alert, and those
    behind it go on. Later events of its key wait for that. A database that is away is waited for.

    `pause` is in seconds, between a batch that is not LARGE and the fetch of the next: what comes
    meanwhile takes effect together, for the price of one transaction.
    """

    def __init__(
        self,
        db: Database,
        bus: Bus,
        *,
        group: str,
        topics: Sequence[str],
        handlers: Handlers,
        pause: float = 0.0,
        first_wait: float = 0.1,
    ) -> None:
        self._db = db
        self._bus = bus
        self._group = group
        self._oldest = 0.0
        _WORKING[group] = self
        self._topics = topics
        self._handlers = handlers
        self._pause = pause
        self._first_wait = first_wait
        self._database = Outage("database")

    async def run(self) -> None:
        """Goes on until cancelled, through outages of the database and the bus."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._consume())
            tasks.create_task(self._prune())

    async def _consume(self) -> None:
        away = Outage("bus")
        while True:
            try:
                async with self._bus.subscribe(self._group, self._topics) as subscription:
                    while True:
                        envelopes = await subscription.fetch()
                        away.over()
                        self._oldest = min(map(_published_at, envelopes), default=0.0)
                        await self._take(envelopes)
                        await subscription.commit()
                        self._oldest = 0.0
                        _TAKEN.labels(self._group).inc(len(envelopes))
                        if self._pause and len(envelopes) < LARGE:
                            await asyncio.sleep(self._pause)
            except BusUnavailable as error:
                await away.wait(error)

    @property
    def lag(self) -> float:
        """Seconds since the oldest event was published that is fetched, and not done."""
        return max(0.0, time.time() - self._oldest) if self._oldest else 0.0

    async def _take(self, envelopes: Sequence[Envelope]) -> None:
        try:
            await self._effect(envelopes)
        except Exception as error:  # whatever a handler raises must not stop the partition
            log.warning("events_failed_together", group=self._group, exc_info=error)
            await self._take_alone(envelopes)

    async def _take_alone(self, envelopes: Sequence[Envelope]) -> None:
        """Lets each take effect by itself or give up; a failing one holds up only its key."""
        failed: Tally[UUID] = Tally()
        again = Backoff(self._first_wait)
        waiting = envelopes
        while waiting:
            left: list[Envelope] = []
            stuck: set[tuple[str, str]] = set()
            for envelope in waiting:
                place = envelope.topic, envelope.key
                if place in stuck:
                    left.append(envelope)
                    continue
                try:
                    await self._effect([envelope])
                except Exception as error:  # as above
                    failed[envelope.id] += 1
                    if failed[envelope.id] == TRIES:
                        await self._give_up(envelope, error)
                    else:
                        stuck.add(place)
                        left.append(envelope)
            waiting = left
            if stuck:
                await again.wait()

    async def _effect(self, envelopes: Sequence[Envelope]) -> None:
        """One transaction with all of them, as soon as the database is there."""
        while True:
            try:
                await self._handlers.take(self._db, self._group, envelopes)
            except Exception as error:  # sorted below
                if not unavailable(error):
                    raise
                await self._database.wait(error)
            else:
                self._database.over()
                return

    async def _give_up(self, envelope: Envelope, error: Exception) -> None:
        kind = type(error).__name__
        dead = replace(envelope, topic=dead_letters(envelope.topic), error=f"{self._group}: {kind}")
        await self._bus.send([dead])
        _DEAD.labels(self._group, envelope.type).inc()
        log.error(
            "event_given_up",
            alert=True,
            group=self._group,
            type=envelope.type,
            id=str(envelope.id),
            exc_info=error,
        )

    async def _prune(self) -> None:
        """Forgets what the bus cannot bring again; a day later, for clocks and slow relays."""
        values = {"seconds": RETENTION.total_seconds() + 86_400, "batch": PRUNE_BATCH}
        pause = random.random() * PRUNE_SECONDS  # replicas that start together spread out
        while True:
            await asyncio.sleep(pause)
            pause = PRUNE_SECONDS
            try:
                async with self._db.begin() as tx:
                    found = await tx.execute(_PRUNE, values)
            except Exception as error:  # it has time until the next round
                log.warning("inbox_not_pruned", exc_info=error)
            else:
                if getattr(found, "rowcount", 0) == PRUNE_BATCH:
                    pause = 0.0


def _published_at(envelope: Envelope) -> float:
    """By the event's id, which begins with the millisecond in which it was made."""
    return (envelope.id.int >> 80) / 1000


metrics.gauge(
    "vlinders_events_lag_seconds",
    "Age of the oldest event that is fetched, and has not taken effect.",
    lambda: {(group,): consumer.lag for group, consumer in _WORKING.items()},
    ("group",),
)
