"""OAuth states: sign-ins at providers that were begun here and have not come back."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete

from vlinders_auth.errors import OauthStateInvalid
from vlinders_auth.models import OAuthState
from vlinders_kit.db import Tx
from vlinders_kit.sealing import Sealer

LIFETIME = timedelta(minutes=10)


@dataclass(frozen=True)
class Begun:
    """A sign-in on its way: what leaves with the browser, and what only we know."""

    state: str
    browser_token: str
    verifier: str
    """PKCE's (RFC 7636 4.1)."""
    nonce: str
    """OpenID Connect's."""


@dataclass(frozen=True)
class Returned:
    """What was kept of a sign-in that has come back."""

    verifier: str
    nonce: str


async def begin(tx: Tx, sealer: Sealer, provider: str, *, dialect: str, now: datetime) -> Begun:
    """Notes a sign-in at `provider`, for who shows its state and its browser token."""
    begun = Begun(*(secrets.token_urlsafe(32) for _ in range(4)))
    digest = _digest(begun.state)
    tx.add(
        OAuthState(
            sha256=digest,
            provider=provider,
            browser_sha256=_digest(begun.browser_token),
            sealed_verifier=sealer.seal(begun.verifier.encode(), _purpose(digest)),
            nonce=begun.nonce,
            dialect=dialect,
            expires_at=now + LIFETIME,
        )
    )
    return begun


async def claim(
    tx: Tx,
    sealer: Sealer,
    provider: str,
    *,
    state: str,
    browser_token: str,
    dialect: str,
    now: datetime,
) -> Returned:
    """What was kept for the state, which is used up; raises OauthStateInvalid.

    Of those who show it at the same time exactly one gets it: the row is deleted by what looks for
    it. Who shows it in another browser, to another provider's callback, or by another dialect,
    learns nothing and uses nothing up.
    """
    digest = _digest(state)
    row = (
        await tx.execute(
            delete(OAuthState)
            .where(
                OAuthState.sha256 == digest,
                OAuthState.provider == provider,
                OAuthState.browser_sha256 == _digest(browser_token),
                OAuthState.dialect == dialect,
                OAuthState.expires_at > now,
            )
            .returning(OAuthState.sealed_verifier, OAuthState.nonce)
        )
    ).one_or_none()
    if row is None:
        raise OauthStateInvalid
    verifier = sealer.open(row.sealed_verifier, _purpose(digest)).decode()
    return Returned(verifier, row.nonce)


async def forget_old(tx: Tx, *, now: datetime) -> None:
    """Deletes the states of those who did not come back in time."""
    await tx.execute(delete(OAuthState).where(OAuthState.expires_at <= now))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _purpose(digest: bytes) -> str:
    return f"oauth-state:{digest.hex()}"
