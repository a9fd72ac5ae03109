"""Mails that were asked for: counted, kept until they are sent, taken by one who sends them.

A mail is asked for in the transaction of what it is about, and sent afterwards by the postman, of
whichever replica: who asks waits for no mail server, cannot tell from the time whether there is one
to write to, and a process that dies loses none.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, select, text, update

from vlinders_auth.accounts import NO_MAILBOX
from vlinders_auth.errors import MailUnavailable, TooManyMails
from vlinders_auth.links import Purpose
from vlinders_auth.models import Mail
from vlinders_kit.db import Tx, once_committed
from vlinders_kit.ids import new_id

WINDOW = timedelta(hours=1)
"""In which mails are counted."""

LEASE = timedelta(minutes=2)
"""How long who has taken a mail may be about it; then another takes it. Longer than a carrier may
take, else it would be sent twice."""

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:what, 0))")


@dataclass(frozen=True)
class Asked:
    """A mail that somebody wants to be sent. See `Mail` for its fields."""

    purpose: Purpose
    email: str
    subject_id: str | None = None
    asked_by: str | None = None


@dataclass(frozen=True)
class Mailing:
    """Where mails are asked for, and how many of them there may be."""

    offered: bool
    """Whether there is anything to send them with."""

    per_address: int
    """To one address, and ..."""

    per_account: int
    """... asked for by one account, in an hour."""

    most_waiting: int
    """Mails that may wait, all together."""

    wake: Callable[[], None]
    """Tells the postman that there is one."""

    async def ask(self, tx: Tx, mail: Asked, *, now: datetime) -> None:
        """Has the mail be sent once `tx` has committed.

        It costs the same whether anybody has the address or not. Addresses that stand in for none
        get nothing. Raises TooManyMails, and
        MailUnavailable where none can be sent or too many wait.
        """
        if not self.offered:
            raise MailUnavailable
        email = mail.email.lower()
        if email.endswith(f"@{NO_MAILBOX}"):
            return
        await _require_room(tx, Mail.email == email, f"mail:{email}", self.per_address, now)
        if mail.asked_by is not None:
            by = Mail.asked_by == mail.asked_by
            await _require_room(tx, by, f"mail:{mail.asked_by}", self.per_account, now)
        waiting = select(Mail.id).where(Mail.due_at.is_not(None)).limit(self.most_waiting)
        count = await tx.scalar(select(func.count()).select_from(waiting.subquery()))
        if (count or 0) >= self.most_waiting:
            raise MailUnavailable
        tx.add(
            Mail(
                id=new_id("mail"),
                purpose=mail.purpose,
                email=email,
                subject_id=mail.subject_id,
                asked_by=mail.asked_by,
                created_at=now,
                due_at=now,
                tries=0,
            )
        )
        once_committed(tx, self.wake)


async def take(tx: Tx, most: int, *, now: datetime) -> Sequence[Mail]:
    """Mails that are due, for the caller alone until their lease is over."""
    query = (
        select(Mail)
        .where(Mail.due_at <= now)
        .order_by(Mail.due_at)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    taken = (await tx.scalars(query)).all()
    for mail in taken:
        mail.tries += 1
        mail.due_at = now + LEASE
    return taken


async def put_back(tx: Tx, mail_id: str, *, due_at: datetime) -> None:
    """Has the mail be sent again, not before `due_at`."""
    await tx.execute(update(Mail).where(Mail.id == mail_id).values(due_at=due_at))


async def finish(tx: Tx, mail_id: str) -> None:
    """Notes that the mail is done with. It still counts."""
    await tx.execute(update(Mail).where(Mail.id == mail_id).values(due_at=None))


async def forget_old(tx: Tx, *, now: datetime) -> None:
    """Deletes mails that are done with and count no more."""
    old = (Mail.created_at <= now - WINDOW, Mail.due_at.is_(None))
    await tx.execute(delete(Mail).where(*old))


async def _require_room(
    tx: Tx, of: ColumnElement[bool], subject: str, limit: int, now: datetime
) -> None:
    """Raises TooManyMails if there are `limit` mails. Of a `subject`, one is counted at a time."""
    await tx.execute(_LOCK, {"what": subject})
    query = (
        select(Mail.created_at)
        .where(of, Mail.created_at > now - WINDOW)
        .order_by(Mail.created_at.desc())
        .limit(limit)
    )
    lately = (await tx.scalars(query)).all()
    if len(lately) >= limit:
        wait = lately[-1] + WINDOW - now
        raise TooManyMails(retry_seconds=max(1, math.ceil(wait.total_seconds())))
