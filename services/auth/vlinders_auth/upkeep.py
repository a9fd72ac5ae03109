"""Upkeep: signing keys take turns, and what counts for nothing any more is deleted."""

import asyncio
from datetime import timedelta

from vlinders_auth import attempts, links, mails, members, oauth_states, sessions, signing_keys
from vlinders_auth.signing_keys import Ring
from vlinders_kit import logs, metrics
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database, unavailable
from vlinders_kit.outages import Outage
from vlinders_kit.sealing import Sealer

EVERY_SECONDS = 60.0

log = logs.get(__name__)


class Upkeep:
    """Keeps `ring` the keys of this moment. Several processes may do this on one database."""

    ring: Ring

    def __init__(
        self, db: Database, sealer: Sealer, *, signing_key_lifetime: timedelta, clock: Clock
    ) -> None:
        self._db = db
        self._sealer = sealer
        self._lifetime = signing_key_lifetime
        self._clock = clock

    async def run(self) -> None:
        """Goes on until cancelled, through outages of the database: the keys it has still sign."""
        away = Outage("database (upkeep)")
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                await self.turn_keys()
                await self.forget_old()
                away.over()
            except Exception as error:  # it is due again
                if unavailable(error):
                    await away.wait(error)
                else:
                    log.error("upkeep_failed", alert=True, exc_info=error)

    async def turn_keys(self) -> None:
        """Publishes the next signing key if it is time, retires old ones, holds what there is."""
        async with self._db.begin() as tx:
            due = await signing_keys.is_due(tx, now=self._clock.now(), lifetime=self._lifetime)
        key = await asyncio.to_thread(signing_keys.generate) if due else None
        async with self._db.begin() as tx:
            now = self._clock.now()
            if key is not None:
                await signing_keys.add(tx, key, self._sealer, now=now, lifetime=self._lifetime)
            await signing_keys.retire(tx, now=now)
            self.ring = await signing_keys.load(tx, self._sealer)
        turns = [turn for turn, _ in self.ring.keys]
        # Where another replica's clock is ahead, the turn of the only key is still to come.
        since = max((turn for turn in turns if turn <= now), default=min(turns))
        metrics.gauge(
            "vlinders_auth_signing_key_since_timestamp_seconds",
            "Since when the key signs whose turn it is.",
            since.timestamp,
        )

    async def forget_old(self) -> None:
        """Deletes what has expired: sessions, attempts, links, invitations, mails, OAuth states."""
        # Each by itself: whoever sets a password holds rows of several, in an order of his own.
        for things in (attempts, sessions, links, members, mails, oauth_states):
            async with self._db.begin() as tx:
                await things.forget_old(tx, now=self._clock.now())
