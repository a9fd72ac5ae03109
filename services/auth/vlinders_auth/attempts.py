"""Attempts: how many wrong passwords may be tried on an account.

Ten in any fifteen minutes, from however many addresses. An address that a session of the account
was opened from counts for itself, so that strangers who use up theirs do not lock the owner out. A
name that nobody has is counted alike, so that the count tells nobody which ones exist.

An account has two names, its e-mail and its username. Attempts are counted by the name that was
said, which is what is told, and besides by the account, which decides whether the password is
looked at: else ten attempts at one name and one at the other would tell who is called both.
"""

import hashlib
import math
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Subjects:
    """What an attempt counts against."""

    name: bytes
    account: bytes


async def subjects_of(
    tx: Tx, name: str, account: Account | None, client_address: str, *, now: datetime
) -> Subjects:
    """Those of an attempt from `client_address` by `name`; as many, as dear, if it is nobody's."""
    known = await _is_known(tx, "" if account is None else account.id, client_address, now)
    place = b"\0" + client_address.encode() if known else b""
    said = name.lower()
    whose = said if account is None else account.id
    return Subjects(_digest(said, place), _digest(f"account\0{whose}", place))


async def admits(tx: Tx, subject: bytes, *, now: datetime) -> bool:
    """As `admit`, but for an attempt too many the answer is False."""
    try:
        await admit(tx, subject, now=now)
    except TooManyAttempts:
        return False
    return True


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


async def forget(tx: Tx, account: Account) -> None:
    """Gives the account, whose owner has proved himself in another way, all its attempts again."""
    said = (account.email, account.username.lower(), f"account\0{account.id}")
    subjects = [_digest(each) for each in said]
    await tx.execute(delete(Attempts).where(Attempts.subject.in_(subjects)))


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


def _digest(said: str, place: bytes = b"") -> bytes:
    return hashlib.sha256(said.encode() + place).digest()
