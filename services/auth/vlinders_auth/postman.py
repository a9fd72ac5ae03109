"""The postman: sends the mails that wait, and tries again those that could not be sent."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from datetime import timedelta

from prometheus_client import Counter

from vlinders_auth import letters, mails
from vlinders_auth.carriers import Carrier, CarrierAway, Deferred, Refused
from vlinders_auth.models import Mail
from vlinders_auth.recipients import Recipients
from vlinders_kit import logs
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database, unavailable
from vlinders_kit.outages import Outage

AT_ONCE = 4
"""Mails that one process sends at a time."""

POLL_SECONDS = 5.0
"""How soon mails are looked for without being told: those of another process, and those to be tried
again."""

FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(hours=1)

_MAILS = Counter("vlinders_auth_mails_total", "Mails, by what came of a try.", ["outcome"])

log = logs.get(__name__)


class Postman:
    """Brings mails to `carrier`, at once when `told` is set.

    The postmen of several processes share the work. A mail that one dies over is sent again
    when its lease is over, with the same Message-Id.
    """

    def __init__(
        self,
        db: Database,
        carrier: Carrier,
        recipients: Recipients,
        clock: Clock,
        *,
        sender: str,
        told: asyncio.Event,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._db = db
        self._carrier = carrier
        self._recipients = recipients
        self._clock = clock
        self._sender = sender
        self._chance = chance
        self._told = told
        self._away = Outage("mail")
        for outcome in ("sent", "put_back", "given_up", "void"):
            _MAILS.labels(outcome)  # told from the first scrape on, so that its rate is known

    async def run(self) -> None:
        """Goes on until cancelled, through outages of the database and the carrier."""
        database = Outage("database (mails)")
        while True:
            self._told.clear()
            try:
                taken = await self.turn()
                database.over()
                if taken < AT_ONCE:
                    await self._wait_for_more()
            except CarrierAway as error:
                await self._away.wait(error)
            except Exception as error:  # what is due is taken again
                if unavailable(error):
                    await database.wait(error)
                else:
                    log.error("postman_failed", alert=True, exc_info=error)
                    await self._wait_for_more()

    async def turn(self) -> int:
        """Sends what is due, as much as goes at once; says how many mails that were.

        Raises CarrierAway when one could not be handed over for a reason that concerns all.
        """
        async with self._db.begin() as tx:
            taken = await mails.take(tx, AT_ONCE, now=self._clock.now())
        brought = await asyncio.gather(*map(self._bring, taken), return_exceptions=True)
        for failure in brought:
            if failure is not None:
                raise failure
        return len(taken)

    async def _bring(self, mail: Mail) -> CarrierAway | None:
        """Sends one mail, or puts it back. A fault of ours over it holds up no other."""
        away, outcome = None, "put_back"
        try:
            outcome = "sent" if await self._send(mail) else "void"
        except Refused as error:
            outcome = "given_up"
            log.warning("mail_given_up", mail_id=mail.id, purpose=mail.purpose, answer=str(error))
        except CarrierAway as error:
            away = error
        except Deferred as error:
            log.info("mail_put_back", mail_id=mail.id, tries=mail.tries, answer=str(error))
        except Exception as error:
            log.error("mail_failed", mail_id=mail.id, tries=mail.tries, exc_info=error)
        async with self._db.begin() as tx:
            if outcome == "put_back":
                await mails.put_back(tx, mail.id, due_at=self._clock.now() + self._wait(mail.tries))
            else:
                await mails.finish(tx, mail.id)
        _MAILS.labels(outcome).inc()
        return away

    async def _send(self, mail: Mail) -> bool:
        """Whether there was anything to send."""
        async with self._db.begin() as tx:
            now = self._clock.now()
            letter = await self._recipients.letter_of(tx, mail.id, now=now)
        if letter is None:
            return False
        await self._carrier.carry(letters.write(letter, sender=self._sender, now=now))
        self._away.over()
        return True

    def _wait(self, tries: int) -> timedelta:
        """Before the next try: twice as long each time, less up to half by chance."""
        wait = min(FIRST_WAIT * 2 ** min(tries - 1, 20), LONGEST_WAIT)
        return timedelta(seconds=wait.total_seconds() * (1 - self._chance() / 2))

    async def _wait_for_more(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self._told.wait()
