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

from vlinders_auth.errors import TooManyAttempts, TooManyPasswords
from vlinders_auth.models import Account, Attempts, Session
from vlinders_kit.db import Tx

MOST = 10
WINDOW = timedelta(minutes=15)
LOST = timedelta(seconds=30)
"""An attempt that has no outcome by then lost its process, and counts as one that failed."""


async def subject_of(
    tx: Tx, email: str, account: Account | None, client_address: str, *, now: datetime
) -> bytes:
    """What an attempt from `client_address` counts against."""
    said = email.lower().encode()
    if account is not None and await _is_known(tx, account.id, client_address, now):
        said += b"\0" + client_address.encode()
    return hashlib.sha256(said).digest()


async def admit(tx: Tx, subject: bytes, *, now: datetime) -> None:
    """Notes an attempt whose password is about to be looked at; `conclude` must follow.

    Raises TooManyAttempts after as many failures as there may be, and TooManyPasswords where those
    that are being looked at could become as many: so none slips through beside the others.
    """
    row = (
        await tx.scalars(
            insert(Attempts)
            .values(subject=subject, failed_at=[], begun_at=[], last_at=now)
            .on_conflict_do_update(index_elements=[Attempts.subject], set_={"last_at": now})
            .returning(Attempts)
        )
    ).one()
    lost = [at for at in row.begun_at if at <= now - LOST]
    failed = sorted(at for at in (*row.failed_at, *lost) if at > now - WINDOW)
    begun = [at for at in row.begun_at if at > now - LOST]
    if len(failed) >= MOST:
        wait = failed[-MOST] + WINDOW - now
        raise TooManyAttempts(retry_seconds=max(1, math.ceil(wait.total_seconds())))
    if len(failed) + len(begun) >= MOST:
        raise TooManyPasswords
    row.failed_at = failed
    row.begun_at = [*begun, now]


async def conclude(tx: Tx, subject: bytes, *, begun_at: datetime, failed: bool) -> None:
    """Says what came of the attempt that was admitted at `begun_at`."""
    row = await tx.scalar(select(Attempts).where(Attempts.subject == subject).with_for_update())
    if row is None or begun_at not in row.begun_at:
        return
    begun = list(row.begun_at)
    begun.remove(begun_at)
    row.begun_at = begun
    if failed:
        row.failed_at = [*row.failed_at, begun_at]


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
