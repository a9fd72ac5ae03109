"""Sessions: a sign-in, and the refresh tokens that renew it."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update

from vlinders.auth.v1.accounts_pb2 import ACCOUNT_STATUS_ACTIVE
from vlinders.auth.v1.events_pb2 import SessionRevoked
from vlinders_auth import audit
from vlinders_auth.dialects import Refreshes, Rules, rules_of
from vlinders_auth.errors import AccountDisabled, CredentialNotFound, InvalidRefreshToken
from vlinders_auth.models import Account, RefreshToken, Session
from vlinders_kit.db import Tx
from vlinders_kit.events import publish
from vlinders_kit.ids import new_id
from vlinders_kit.sealing import Sealer

PREFIX = "vlinders_rt_"
"""Of a refresh token: so that it is told from an access token, and found where it should not be."""

RETRIES_FOR = timedelta(seconds=10)
"""How long whoever has traded a refresh token gets the same successor again."""


@dataclass(frozen=True)
class Renewed:
    """A session that goes on, and whose it is."""

    session: Session
    account: Account
    refresh_token: str = ""
    """Empty where the client keeps the one that it has, or has none."""


async def open(
    tx: Tx,
    account: Account,
    rules: Rules,
    *,
    client_address: str,
    now: datetime,
    lifetime: timedelta,
) -> Renewed:
    """A new session of an account that has just proved who it is.

    It has the kind of refresh token that `rules` say, of which only the SHA-256 is kept.
    """
    account.last_login_at = now
    session = Session(
        id=new_id("session"),
        account_id=account.id,
        client_address=client_address,
        dialect=rules.name,
        created_at=now,
        expires_at=now + lifetime,
    )
    tx.add(session)
    await tx.flush()
    if rules.refreshes is Refreshes.NEVER:
        return Renewed(session, account)
    return Renewed(session, account, _new_token(tx, session.id, now))


async def renewed_by(tx: Tx, refresh_token: str, *, now: datetime) -> Renewed:
    """The session that the token renews, where tokens stay as they are.

    Raises InvalidRefreshToken, also when the session is revoked or expired, and AccountDisabled.
    """
    token = await tx.get(RefreshToken, _digest(refresh_token))
    if token is None:
        raise InvalidRefreshToken
    found = await _alive(tx, token.session_id, now)
    if found is None or not _does(found.session, Refreshes.STAY):
        raise InvalidRefreshToken
    return found


async def rotate(tx: Tx, refresh_token: str, sealer: Sealer, *, now: datetime) -> Renewed | None:
    """Trades the token for its successor, where tokens do that.

    A token is traded once. Whoever shows it again soon, its successor unused, has not got the
    answer, and gets the same one; whoever shows it otherwise has a copy. Nobody can tell which of
    the two who hold one is the owner: the session ends, and the answer is None, not an error, since
    that must be kept. Raises InvalidRefreshToken and AccountDisabled.
    """
    token = await tx.get(RefreshToken, _digest(refresh_token), with_for_update=True)
    if token is None:
        raise InvalidRefreshToken
    found = await _alive(tx, token.session_id, now)
    if found is None or not _does(found.session, Refreshes.ROTATE):
        raise InvalidRefreshToken
    if token.traded_at is None:
        successor = _new_token(tx, token.session_id, now)
        token.traded_at = now
        token.sealed_successor = sealer.seal(successor.encode(), _purpose(token.session_id))
        return Renewed(found.session, found.account, successor)
    if token.sealed_successor is not None and now - token.traded_at < RETRIES_FOR:
        successor = sealer.open(token.sealed_successor, _purpose(token.session_id)).decode()
        if await _is_unused(tx, successor):
            return Renewed(found.session, found.account, successor)
    await revoke(tx, token.session_id, now=now)
    await audit.record(
        tx,
        "session.reuse",
        "session",
        token.session_id,
        tenant_id=found.account.tenant_id,
        now=now,
        actor_account_id="",
    )
    return None


async def find(tx: Tx, session_id: str, *, now: datetime) -> Renewed:
    """A session that has not ended; raises CredentialNotFound and AccountDisabled."""
    found = await _alive(tx, session_id, now)
    if found is None:
        raise CredentialNotFound
    return found


async def revoke(tx: Tx, session_id: str, *, now: datetime) -> None:
    """Ends a session, its tokens with it. What has ended already stays as it is."""
    session = await tx.scalar(select(Session).where(Session.id == session_id).with_for_update())
    if session is not None and session.revoked_at is None:
        session.revoked_at = now
        await publish(tx, SessionRevoked(session_id=session.id, account_id=session.account_id))


async def revoke_all(tx: Tx, account_id: str, *, but: str = "", now: datetime) -> None:
    """Ends the sessions of an account, except the one with the id `but`."""
    ended = await tx.scalars(
        update(Session)
        .where(Session.account_id == account_id, Session.id != but)
        .where(Session.revoked_at.is_(None), Session.expires_at > now)
        .values(revoked_at=now)
        .returning(Session.id)
    )
    await publish(tx, *(SessionRevoked(session_id=id, account_id=account_id) for id in ended))


async def forget_old(tx: Tx, *, now: datetime) -> None:
    """Deletes sessions that have expired, with their tokens, and successors nobody gets again."""
    await tx.execute(delete(Session).where(Session.expires_at <= now))
    await tx.execute(
        update(RefreshToken)
        .where(RefreshToken.sealed_successor.is_not(None))
        .where(RefreshToken.traded_at <= now - RETRIES_FOR)
        .values(sealed_successor=None)
    )


async def _alive(tx: Tx, session_id: str, now: datetime) -> Renewed | None:
    """The session unless it has ended; raises AccountDisabled."""
    row = (
        await tx.execute(
            select(Session, Account)
            .join(Account, Account.id == Session.account_id)
            .where(Session.id == session_id, Session.revoked_at.is_(None), Session.expires_at > now)
        )
    ).one_or_none()
    if row is None:
        return None
    session, account = row
    if account.status != ACCOUNT_STATUS_ACTIVE:
        raise AccountDisabled
    return Renewed(session, account)


def _does(session: Session, refreshes: Refreshes) -> bool:
    return rules_of(session.dialect).refreshes is refreshes


def _new_token(tx: Tx, session_id: str, now: datetime) -> str:
    token = PREFIX + secrets.token_urlsafe(32)
    tx.add(RefreshToken(sha256=_digest(token), session_id=session_id, created_at=now))
    return token


async def _is_unused(tx: Tx, refresh_token: str) -> bool:
    token = await tx.get(RefreshToken, _digest(refresh_token))
    return token is not None and token.traded_at is None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _purpose(session_id: str) -> str:
    return f"refresh-token:{session_id}"
