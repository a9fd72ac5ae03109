"""Members of a tenant: who belongs to it, who is asked to join, and what each may do.

Nobody gives or takes a role above his own, as it is at that moment: whoever changes roles holds the
tenant, so that of two owners who demote each other at the same time, one stays.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, any_, delete, exists, func, select
from sqlalchemy.dialects.postgresql import insert

from vlinders.api.v1 import options_pb2 as api
from vlinders.auth.v1.accounts_pb2 import ACCOUNT_STATUS_ACTIVE
from vlinders.auth.v1.events_pb2 import RolesChanged
from vlinders_auth import accounts, audit, links, roles, tenants
from vlinders_auth.accounts import Person
from vlinders_auth.errors import (
    AccountNotFound,
    EmailTaken,
    InvalidLink,
    InvitationLimitReached,
    LastOwner,
    RoleNotHeld,
)
from vlinders_auth.links import LIFETIMES, Purpose
from vlinders_auth.mails import Asked, Mailing
from vlinders_auth.models import Account, Invitation, Link
from vlinders_kit.db import Tx
from vlinders_kit.events import publish
from vlinders_kit.ids import new_id
from vlinders_kit.sealing import Sealer


@dataclass(frozen=True)
class Wanted:
    """Who is to join, as what."""

    email: str
    role: int


def of_tenant(tenant_id: str) -> Select[tuple[Account]]:
    """The accounts of the tenant."""
    return select(Account).where(Account.tenant_id == tenant_id)


async def invite(
    tx: Tx, mailing: Mailing, by_account_id: str, wanted: Wanted, *, limit: int, now: datetime
) -> Invitation:
    """Asks somebody to join, by a link in a mail. What was sent to him before works no more.

    Raises RoleNotHeld, EmailTaken, InvitationLimitReached when `limit` others are asked already,
    and what `Mailing.ask` does.
    """
    inviter = await _hold(tx, by_account_id)
    _require_held(inviter, wanted.role)
    email = wanted.email.lower()
    if await accounts.find_by_email(tx, email) is not None:
        raise EmailTaken
    open_ = (
        Invitation.tenant_id == inviter.tenant_id,
        Invitation.email != email,
        Invitation.expires_at > now,
    )
    if (await tx.scalar(select(func.count()).where(*open_)) or 0) >= limit:
        raise InvitationLimitReached(limit=limit)
    invitation = await _put(tx, inviter, email, wanted.role, now)
    mail = Asked(Purpose.ACCEPT_INVITATION, email, subject_id=invitation.id, asked_by=by_account_id)
    await mailing.ask(tx, mail, now=now)
    await _note(
        tx, "member.invite", "invitation", invitation.id, inviter.tenant_id, now, email=email
    )
    return invitation


async def require_invited(tx: Tx, sealer: Sealer, token: str, *, now: datetime) -> None:
    """Raises InvalidLink unless the token invites somebody: before a password is hashed."""
    await _invited(tx, sealer, token, now)


async def accept(
    tx: Tx, sealer: Sealer, token: str, *, password_hash: str, full_name: str, now: datetime
) -> Account:
    """Makes an account in the tenant. Who reads the mails of an e-mail has it: it is verified.

    An invitation is worth what its sender may give when it is accepted. Raises InvalidLink, also
    where he may not any more, and EmailTaken.
    """
    link, invitation = await _invited(tx, sealer, token, now)
    tenant = await tenants.lock(tx, invitation.tenant_id)
    inviter = await tx.get_one(Account, invitation.invited_by, populate_existing=True)
    if not _may_give(inviter, invitation.role) or inviter.status != ACCOUNT_STATUS_ACTIVE:
        raise InvalidLink
    await links.use(tx, link)
    await tx.execute(delete(Invitation).where(Invitation.id == invitation.id))
    person = Person(invitation.email, password_hash, full_name)
    account = await accounts.join(tx, tenant, person, _roles_of(invitation.role), now=now)
    account.email_verified = True
    await audit.record_own(tx, "member.join", account, now=now, role=_name(invitation.role))
    return account


async def set_role(
    tx: Tx, by_account_id: str, account_id: str, role: int, *, now: datetime
) -> Account:
    """Changes what a member may do, himself too. Who runs the platform goes on to.

    Raises AccountNotFound for who is none of the tenant, RoleNotHeld, and LastOwner where nobody
    else who owns it is let in.
    """
    by = await _hold(tx, by_account_id)
    member = await tx.scalar(
        select(Account)
        .where(Account.id == account_id, Account.tenant_id == by.tenant_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if member is None:
        raise AccountNotFound
    _require_held(by, max(role, *member.roles))
    wanted = [*_roles_of(role), *(each for each in member.roles if each == api.ROLE_OPERATOR)]
    if wanted == list(member.roles):
        return member
    if api.ROLE_OWNER in member.roles and role != api.ROLE_OWNER:
        await _require_another_owner(tx, member)
    member.roles = wanted
    member.updated_at = now
    await publish(tx, RolesChanged(account_id=member.id, tenant_id=member.tenant_id))
    await _note(tx, "member.role", "user", member.id, member.tenant_id, now, role=_name(role))
    return member


async def forget_old(tx: Tx, *, now: datetime) -> None:
    """Deletes invitations that have expired."""
    await tx.execute(delete(Invitation).where(Invitation.expires_at <= now))


async def _hold(tx: Tx, account_id: str) -> Account:
    """The account that asks, as it is while its tenant is held."""
    account = await accounts.find(tx, account_id)
    await tenants.lock(tx, account.tenant_id)
    await tx.refresh(account)
    if account.status != ACCOUNT_STATUS_ACTIVE or max(account.roles) < api.ROLE_ADMIN:
        raise RoleNotHeld  # by now: the gateway let in what he was a moment ago
    return account


def _may_give(account: Account, role: int) -> bool:
    return max(account.roles) >= max(role, api.ROLE_ADMIN)


def _require_held(account: Account, role: int) -> None:
    if not _may_give(account, role):
        raise RoleNotHeld


async def _require_another_owner(tx: Tx, member: Account) -> None:
    another = exists().where(
        Account.tenant_id == member.tenant_id,
        Account.id != member.id,
        Account.status == ACCOUNT_STATUS_ACTIVE,
        any_(Account.roles) == api.ROLE_OWNER,
    )
    if not await tx.scalar(select(another)):
        raise LastOwner


async def _put(tx: Tx, inviter: Account, email: str, role: int, now: datetime) -> Invitation:
    """A new invitation in the place of the one that there was."""
    told = {
        "id": new_id("invitation"),
        "role": role,
        "invited_by": inviter.id,
        "created_at": now,
        "expires_at": now + LIFETIMES[Purpose.ACCEPT_INVITATION],
    }
    query = (
        insert(Invitation)
        .values(tenant_id=inviter.tenant_id, email=email, **told)
        .on_conflict_do_update(index_elements=[Invitation.tenant_id, Invitation.email], set_=told)
        .returning(Invitation)
    )
    return (await tx.scalars(query)).one()


async def _invited(tx: Tx, sealer: Sealer, token: str, now: datetime) -> tuple[Link, Invitation]:
    link = await links.find(tx, sealer, token, Purpose.ACCEPT_INVITATION, now=now)
    invitation = await tx.get(Invitation, link.subject_id)
    if invitation is None or invitation.expires_at <= now:
        raise InvalidLink
    return link, invitation


def _roles_of(role: int) -> tuple[int, ...]:
    """What is kept of a role: an owner shows as a developer, too, as who signs up does."""
    return roles.OF_SIGN_UP if role == api.ROLE_OWNER else (role,)


def _name(role: int) -> str:
    return api.Role.Name(role).removeprefix("ROLE_").lower()


async def _note(
    tx: Tx, action: str, kind: str, id: str, tenant_id: str, now: datetime, **details: str
) -> None:
    await audit.record(tx, action, kind, id, tenant_id=tenant_id, now=now, **details)
