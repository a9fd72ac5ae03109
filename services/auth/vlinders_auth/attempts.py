"""Attempts to sign in: how many wrong passwords may be tried on an account.

Ten in any fifteen minutes, from however many addresses. An address that a session of the account
was opened from counts for itself, so that strangers who use up theirs do not lock the owner out. An
e-mail that nobody has is counted alike, so that the count tells nobody which ones exist.
"""

import hashlib
import math
from datetime import datetime, timedelta

from sqlalchemy import delete, exists, select
from sqlalchemy.dialects.postgresql import insert

from vlinders_auth.errors import TooManyAttempts
from vlinders_auth.models import Account, Attempts, Session
from vlinders_kit.db import Tx

MOST = 10
WINDOW = timedelta(minutes=15)


async def subject_of(
    tx: Tx, email: str, account: Account | None, client_address: str, *, now: datetime
) -> bytes:
    """What an attempt from `client_address` counts against."""
    said = email.lower().encode()
    if account is not None and await _is_known(tx, account.id, client_address, now):
        said += b"\0" + client_address.encode()
    return hashlib.sha256(said).digest()


async def admit(tx: Tx, subject: bytes, *, now: datetime) -> None:
    """Counts an attempt that is about to be looked at; raises TooManyAttempts if it may not be.

    It counts before its outcome is known, so that attempts at the same time do not slip through.
    """
    row = (
        await tx.scalars(
            insert(Attempts)
            .values(subject=subject, at=[], last_at=now)
            .on_conflict_do_update(index_elements=[Attempts.subject], set_={"last_at": now})
            .returning(Attempts)
        )
    ).one()
    recent = [at for at in row.at if at > now - WINDOW]
    if len(recent) >= MOST:
        wait = recent[-MOST] + WINDOW - now
        raise TooManyAttempts(retry_seconds=max(1, math.ceil(wait.total_seconds())))
    row.at = [*recent, now]


async def take_back(tx: Tx, subject: bytes, *, at: datetime) -> None:
    """Does not count the attempt of `at` any more: the password was right, or not looked at."""
    row = await tx.scalar(select(Attempts).where(Attempts.subject == subject).with_for_update())
    if row is not None and at in row.at:
        rest = list(row.at)
        rest.remove(at)
        row.at = rest


async def forget_old(tx: Tx, *, now: datetime) -> None:
    """Deletes what counts for nothing any more."""
    await tx.execute(delete(Attempts).where(Attempts.last_at <= now - WINDOW))


async def _is_known(tx: Tx, account_id: str, client_address: str, now: datetime) -> bool:
    opened_there = exists().where(
        Session.account_id == account_id,
        Session.client_address == client_address,
        Session.revoked_at.is_(None),
        Session.expires_at > now,
    )
    return bool(client_address and await tx.scalar(select(opened_there)))
