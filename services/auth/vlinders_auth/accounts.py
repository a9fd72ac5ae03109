"""Accounts and tenants: who there is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import psycopg
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from vlinders.auth.v1.accounts_pb2 import ACCOUNT_STATUS_ACTIVE
from vlinders.auth.v1.events_pb2 import AccountRegistered, TenantCreated
from vlinders_auth import audit, roles, usernames
from vlinders_auth.dialects import Rules
from vlinders_auth.errors import (
    AccountDisabled,
    AccountNotFound,
    EmailTaken,
    NothingToChange,
    UsernameTaken,
)
from vlinders_auth.models import USERNAMES, Account, Tenant
from vlinders_kit.db import Tx
from vlinders_kit.events import publish
from vlinders_kit.ids import new_id

FREE = "free"
OPERATOR = "operator"
"""The plan without rate limits, of the operator's own tenant."""

NO_MAILBOX = "users.invalid"
"""Domain of e-mails that stand in where none is known: nobody can have it (RFC 2606 2). An account
needs one; this kind is replaced like any other, by the account's owner."""


@dataclass(frozen=True)
class Person:
    """Somebody who is to get an account; without a `username`, one is made for him."""

    email: str
    password_hash: str
    full_name: str = ""
    username: str | None = None
    nickname: str = ""
    """What a username is made of; without it, his e-mail is."""


@dataclass(frozen=True)
class Changes:
    """What an owner wants to be different; what is None stays."""

    full_name: str | None = None
    avatar_url: str | None = None
    """Empty: none any more."""
    username: str | None = None
    email: str | None = None


async def register(tx: Tx, person: Person, *, tenant_name: str, now: datetime) -> Account:
    """Creates an account and a tenant of its own; raises EmailTaken and UsernameTaken.

    Of those who register an e-mail or a username at the same time, exactly one succeeds.
    """
    tenant = await create_tenant(tx, tenant_name, plan=FREE, operator=False, now=now)
    return await join(tx, tenant, person, roles.OF_SIGN_UP, now=now)


async def create_tenant(tx: Tx, name: str, *, plan: str, operator: bool, now: datetime) -> Tenant:
    """Creates a tenant with nobody in it yet."""
    tenant = Tenant(id=new_id("tenant"), name=name, plan=plan, operator=operator, created_at=now)
    tx.add(tenant)
    await tx.flush()
    await publish(tx, TenantCreated(tenant_id=tenant.id, name=name, plan=plan, operator=operator))
    return tenant


async def join(
    tx: Tx, tenant: Tenant, person: Person, as_roles: Sequence[int], *, now: datetime
) -> Account:
    """Creates an account in `tenant`; raises EmailTaken and UsernameTaken."""
    email = person.email.lower()
    names = usernames.derive(person.nickname or email)
    name = person.username or next(names)
    while (account := await _insert(tx, tenant, person, email, name, as_roles, now)) is None:
        if await find_by_email(tx, email) is not None:
            raise EmailTaken
        if person.username is not None:
            raise UsernameTaken
        name = next(names)
    await publish(tx, AccountRegistered(account_id=account.id, tenant_id=tenant.id))
    return account


async def find_by_email(tx: Tx, email: str) -> Account | None:
    """Whoever has `email`, however it is capitalized."""
    query = select(Account).where(Account.email == email.lower())
    return (await tx.scalars(query)).one_or_none()


async def find_by_name(tx: Tx, name: str) -> Account | None:
    """Whoever has `name` for an e-mail or, having no @, for a username, in any case."""
    if "@" in name:
        return await find_by_email(tx, name)
    query = select(Account).where(func.lower(Account.username) == name.lower())
    return (await tx.scalars(query)).one_or_none()


async def find(tx: Tx, account_id: str) -> Account:
    """The account, as it is; raises AccountNotFound."""
    account = await tx.get(Account, account_id)
    if account is None:
        raise AccountNotFound
    return account


async def lock(tx: Tx, account_id: str) -> Account:
    """The account, held until the transaction ends; raises AccountNotFound and AccountDisabled."""
    account = await tx.scalar(
        select(Account).where(Account.id == account_id).with_for_update(key_share=True)
    )
    if account is None:
        raise AccountNotFound
    if account.status != ACCOUNT_STATUS_ACTIVE:
        raise AccountDisabled
    return account


async def update(
    tx: Tx, account_id: str, changes: Changes, rules: Rules, *, now: datetime
) -> Account:
    """Makes the changes; another e-mail is not verified.

    Raises EmailTaken, UsernameTaken, AccountNotFound, AccountDisabled, and NothingToChange where
    the dialect calls that a mistake.
    """
    if changes == Changes() and rules.needs_change:
        raise NothingToChange
    account = await lock(tx, account_id)
    if changes == Changes():
        return account
    if changes.full_name is not None:
        account.full_name = changes.full_name
    if changes.avatar_url is not None:
        account.avatar_url = changes.avatar_url or None
    if changes.username is not None:
        account.username = changes.username
    if changes.email is not None and changes.email.lower() != account.email:
        account.email = changes.email.lower()
        account.email_verified = False
    account.updated_at = now
    try:
        await tx.flush()
    except IntegrityError as error:
        raise _taken(error) from None
    different = [name for name, value in asdict(changes).items() if value is not None]
    await audit.record_own(tx, "user.update", account, now=now, fields=",".join(different))
    return account


def _taken(error: IntegrityError) -> EmailTaken | UsernameTaken:
    """What an index says that refuses to have a name twice."""
    assert isinstance(error.orig, psycopg.errors.UniqueViolation)
    return UsernameTaken() if error.orig.diag.constraint_name == USERNAMES else EmailTaken()


async def _insert(
    tx: Tx,
    tenant: Tenant,
    person: Person,
    email: str,
    username: str,
    as_roles: Sequence[int],
    now: datetime,
) -> Account | None:
    """The new account, or None if its e-mail or username belongs to somebody.

    The indexes decide: who inserts the same at the same time waits for the other's commit.
    """
    created: Account | None = await tx.scalar(
        insert(Account)
        .values(
            id=new_id("user"),
            tenant_id=tenant.id,
            email=email,
            username=username,
            password_hash=person.password_hash,
            full_name=person.full_name,
            email_verified=False,
            roles=list(as_roles),
            status=ACCOUNT_STATUS_ACTIVE,
            created_at=now,
            updated_at=now,
        )
        .on_conflict_do_nothing()
        .returning(Account)
    )
    return created
