"""Bootstrap: who runs the platform, made at the first start from what the settings give."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, text

from vlinders_auth import accounts, api_keys, roles
from vlinders_auth.accounts import Person
from vlinders_auth.dialects import CANONICAL
from vlinders_auth.models import Account, ApiKey, Tenant
from vlinders_auth.passwords import Passwords
from vlinders_kit import api_keys as texts
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database, Tx

KEY_NAME = "operator"
TENANT_NAME = "Operator"
FULL_NAME = "Administrator"

_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('vlinders_auth.bootstrap'))")


@dataclass(frozen=True)
class Administrator:
    """Whom the settings ask for."""

    email: str
    username: str
    password: str
    api_key: str | None


class AdministratorIsSomebodyElse(Exception):
    """The administrator's e-mail belongs to an account outside the operator's tenant."""


async def bootstrap(
    db: Database, passwords: Passwords, wanted: Administrator, clock: Clock
) -> None:
    """Creates the operator's tenant, the administrator and the API key, each if it is missing.

    What exists stays as it is: a password that was changed since, a key that was revoked. Safe in
    several processes at once. Raises AdministratorIsSomebodyElse rather than raise a user's rights.
    """
    async with db.begin() as tx:
        missing = await accounts.find_by_email(tx, wanted.email) is None
    password_hash = await passwords.hash(wanted.password) if missing else ""
    async with db.begin() as tx:
        await tx.execute(_LOCK)
        account = await _administrator(tx, wanted, password_hash, clock.now())
        if wanted.api_key is not None:
            await _api_key(tx, account, wanted.api_key, clock.now())


async def _administrator(
    tx: Tx, wanted: Administrator, password_hash: str, now: datetime
) -> Account:
    tenant = await tx.scalar(select(Tenant).where(Tenant.operator))
    if tenant is None:
        tenant = await accounts.create_tenant(
            tx, TENANT_NAME, plan=accounts.OPERATOR, operator=True, now=now
        )
    account = await accounts.find_by_email(tx, wanted.email)
    if account is None:
        free = await accounts.find_by_name(tx, wanted.username) is None
        name = wanted.username if free else None
        person = Person(wanted.email, password_hash, FULL_NAME, name)
        account = await accounts.join(tx, tenant, person, roles.OF_OPERATOR, now=now)
    if account.tenant_id != tenant.id:
        raise AdministratorIsSomebodyElse(wanted.email)
    return account


async def _api_key(tx: Tx, account: Account, secret: str, now: datetime) -> None:
    known = select(ApiKey.id).where(ApiKey.sha256 == texts.digest(secret))
    if await tx.scalar(known) is None:
        permissions = sorted(CANONICAL.keys.permissions)
        api_keys.keep(
            tx, account, secret, KEY_NAME, permissions, CANONICAL, expires_at=None, now=now
        )
