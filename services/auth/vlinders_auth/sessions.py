"""Sessions: a sign-in, and the refresh token that renews it."""

import hashlib
import secrets
from datetime import datetime, timedelta

from sqlalchemy import delete, select

from vlinders.auth.v1.accounts_pb2 import ACCOUNT_STATUS_ACTIVE
from vlinders.auth.v1.events_pb2 import SessionRevoked
from vlinders_auth.errors import AccountDisabled, InvalidRefreshToken
from vlinders_auth.models import Account, RefreshToken, Session
from vlinders_kit.db import Tx
from vlinders_kit.events import publish
from vlinders_kit.ids import new_id

PREFIX = "vlinders_rt_"
"""Of a refresh token: so that it is told from an access token, and found where it should not be."""


async def open(
    tx: Tx, account: Account, *, client_address: str, now: datetime, lifetime: timedelta
) -> tuple[Session, str]:
    """A new session and its refresh token, of which only the SHA-256 is kept."""
    session = Session(
        id=new_id("session"),
        account_id=account.id,
        client_address=client_address,
        dialect="vlinders",
        created_at=now,
        expires_at=now + lifetime,
    )
    tx.add(session)
    await tx.flush()
    token = PREFIX + secrets.token_urlsafe(32)
    tx.add(RefreshToken(sha256=_digest(token), session_id=session.id, created_at=now))
    return session, token


async def renewed_by(tx: Tx, refresh_token: str, *, now: datetime) -> tuple[Session, Account]:
    """The session that the token renews, and whose it is.

    Raises InvalidRefreshToken, also when the session is revoked or expired, and AccountDisabled.
    """
    found = await tx.execute(
        select(Session, Account)
        .join(RefreshToken, RefreshToken.session_id == Session.id)
        .join(Account, Account.id == Session.account_id)
        .where(
            RefreshToken.sha256 == _digest(refresh_token),
            Session.revoked_at.is_(None),
            Session.expires_at > now,
        )
    )
    row = found.one_or_none()
    if row is None:
        raise InvalidRefreshToken
    session, account = row
    if account.status != ACCOUNT_STATUS_ACTIVE:
        raise AccountDisabled
    return session, account


async def revoke(tx: Tx, session_id: str, *, now: datetime) -> None:
    """Ends a session, its tokens with it. What has ended already stays as it is."""
    session = await tx.scalar(select(Session).where(Session.id == session_id).with_for_update())
    if session is not None and session.revoked_at is None:
        session.revoked_at = now
        await publish(tx, SessionRevoked(session_id=session.id, account_id=session.account_id))


async def forget_old(tx: Tx, *, now: datetime) -> None:
    """Deletes sessions that have expired, and their tokens."""
    await tx.execute(delete(Session).where(Session.expires_at <= now))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
