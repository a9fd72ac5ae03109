"""Identities: whom a credential stands for, as things are now."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select

from vlinders.auth.v1.accounts_pb2 import ACCOUNT_STATUS_ACTIVE
from vlinders_auth import roles
from vlinders_auth.errors import AccountDisabled, ApiKeyExpired, CredentialNotFound
from vlinders_auth.models import Account, ApiKey, Session, Tenant
from vlinders_kit.db import Tx


@dataclass(frozen=True)
class Identity:
    """Who, with which of the rights of his roles, and until when."""

    account: Account
    tenant: Tenant
    scopes: frozenset[str]
    expires_at: datetime | None
    api_key_id: str = ""
    session_id: str = ""
    hourly_limit: int | None = None
    dialect: str = ""
    """Of an API key: where it opens anything at all."""


async def of_api_key(tx: Tx, sha256: bytes, *, now: datetime) -> Identity:
    """Whom the key with this digest stands for.

    A key that was issued with more than its maker may do today does no more than that. Raises
    CredentialNotFound, AccountDisabled, and ApiKeyExpired to whoever has one that was good.
    """
    key, account, tenant = await _found(
        tx, _whose(ApiKey).where(ApiKey.sha256 == sha256, ApiKey.revoked_at.is_(None))
    )
    if key.expires_at is not None and key.expires_at <= now:
        raise ApiKeyExpired
    return Identity(
        account,
        tenant,
        roles.granted(key.permissions, account.roles),
        key.expires_at,
        api_key_id=key.id,
        hourly_limit=key.hourly_limit,
        dialect=key.dialect,
    )


async def of_session(tx: Tx, session_id: str, *, now: datetime) -> Identity:
    """Whom the session is of; raises CredentialNotFound and AccountDisabled."""
    session, account, tenant = await _found(
        tx,
        _whose(Session)
        .where(Session.id == session_id)
        .where(Session.revoked_at.is_(None), Session.expires_at > now),
    )
    scopes = roles.scopes_of(account.roles)
    return Identity(account, tenant, scopes, session.expires_at, session_id=session.id)


def _whose(credential: type[ApiKey] | type[Session]) -> Select[Any]:
    return (
        select(credential, Account, Tenant)
        .join(Account, Account.id == credential.account_id)
        .join(Tenant, Tenant.id == Account.tenant_id)
    )


async def _found(tx: Tx, query: Select[Any]) -> tuple[Any, Account, Tenant]:
    row = (await tx.execute(query)).one_or_none()
    if row is None:
        raise CredentialNotFound
    credential, account, tenant = row
    if account.status != ACCOUNT_STATUS_ACTIVE:
        raise AccountDisabled
    return credential, account, tenant
