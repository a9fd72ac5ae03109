"""OAuth identities: whose account somebody signs in to whom a provider vouches for.

Who he is, the provider's subject says, and nothing else. An e-mail joins a new subject to an
account that exists only where the provider and we have both verified it: else whoever types in
somebody's address, there or here, would have his account.
"""

import secrets
from datetime import datetime

from sqlalchemy import delete, select, text

from vlinders_auth import accounts, audit
from vlinders_auth.accounts import Person
from vlinders_auth.errors import EmailTaken
from vlinders_auth.models import Account, OAuthIdentity
from vlinders_auth.oauth_providers import Profile
from vlinders_kit.db import Tx

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:who, 0))")


async def account_of(tx: Tx, provider: str, profile: Profile, *, now: datetime) -> Account:
    """Whose profile it is, held; at the first time he gets an account, or the one that he has.

    Raises EmailTaken and AccountDisabled.
    """
    # Who comes for the first time in two windows at once gets one account.
    await tx.execute(_LOCK, {"who": f"{provider} {profile.subject}"})
    known = await tx.get(OAuthIdentity, (provider, profile.subject))
    if known is not None:
        return await accounts.lock(tx, known.account_id)
    account = await _linked(tx, profile) or await _registered(tx, provider, profile, now)
    tx.add(
        OAuthIdentity(
            provider=provider, subject=profile.subject, account_id=account.id, created_at=now
        )
    )
    await audit.record_own(tx, "oauth.link", account, now=now, provider=provider)
    return account


async def forget(tx: Tx, account_id: str) -> None:
    """Has nobody sign in to the account by a provider any more, until he links one again."""
    await tx.execute(delete(OAuthIdentity).where(OAuthIdentity.account_id == account_id))


async def _linked(tx: Tx, profile: Profile) -> Account | None:
    """The account that has the profile's e-mail, if there is one; raises EmailTaken."""
    if not profile.email:
        return None
    found = await tx.scalar(select(Account.id).where(Account.email == profile.email))
    if found is None:
        return None
    account = await accounts.lock(tx, found)  # as it is now: it may have another e-mail already
    if not account.email_verified or account.email != profile.email:
        raise EmailTaken
    return account


async def _registered(tx: Tx, provider: str, profile: Profile, now: datetime) -> Account:
    """A new account with a tenant of its own, without a password."""
    person = Person(
        profile.email or f"{provider}-{secrets.token_hex(10)}@{accounts.NO_MAILBOX}",
        password_hash="",
        full_name=profile.full_name,
        nickname=profile.handle or profile.email or profile.full_name,
    )
    name = profile.full_name or profile.handle or provider
    account = await accounts.register(tx, person, tenant_name=name, now=now)
    account.email_verified = bool(profile.email)
    account.avatar_url = profile.avatar_url or None
    await audit.record_own(tx, "user.register", account, now=now, provider=provider)
    return account
