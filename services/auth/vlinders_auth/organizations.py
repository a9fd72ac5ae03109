"""Organizations: groups of people inside a tenant, and who is in them.

An organization is seen by its members and by the admins of its tenant; to everybody else it is as
one that does not exist. Whoever changes who is in one holds its row, so that of two who would take
its last two admins away at the same time, one is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, exists, func, select

from vlinders.api.v1 import options_pb2 as api
from vlinders.auth.v1.organizations_pb2 import MEMBER_ROLE_ADMIN, MEMBER_ROLE_MEMBER
from vlinders_auth import audit, tenants
from vlinders_auth.errors import (
    AccountNotFound,
    LastAdmin,
    MemberLimitReached,
    MemberNotFound,
    NothingToChange,
    NotItsAdmin,
    OrganizationLimitReached,
    OrganizationNotFound,
)
from vlinders_auth.models import Account, Membership, Organization
from vlinders_kit.db import Tx
from vlinders_kit.ids import new_id
from vlinders_kit.paging import Key

SORTS: Mapping[str, Key] = {
    "name": Organization.name,
    "created_at": Organization.created_at,
    "member_count": Organization.member_count,
}
"""What a list of organizations may be sorted by."""


@dataclass(frozen=True)
class Actor:
    """Who asks: an account, its tenant, and the highest of its roles there."""

    account_id: str
    tenant_id: str
    role: int


def of_member(actor: Actor, *, name: str | None) -> Select[tuple[Organization]]:
    """The organizations that he is a member of; with `name`, those of exactly this name."""
    is_member = exists().where(
        Membership.organization_id == Organization.id, Membership.account_id == actor.account_id
    )
    query = select(Organization).where(Organization.tenant_id == actor.tenant_id, is_member)
    return query if name is None else query.where(Organization.name == name)


async def create(
    tx: Tx, actor: Actor, name: str, description: str, *, limit: int, now: datetime
) -> Organization:
    """A new one, whose first member and admin he is.

    Raises OrganizationLimitReached when the tenant has `limit` of them.
    """
    await tenants.lock(tx, actor.tenant_id)
    counted = select(func.count()).where(Organization.tenant_id == actor.tenant_id)
    if (await tx.scalar(counted) or 0) >= limit:
        raise OrganizationLimitReached(limit=limit)
    organization = Organization(
        id=new_id("org"),
        tenant_id=actor.tenant_id,
        name=name,
        description=description or None,
        created_at=now,
    )
    tx.add(organization)
    await tx.flush()
    _enter(tx, organization, actor.account_id, MEMBER_ROLE_ADMIN, now)
    await _note(tx, "organization.create", organization, now, name=name)
    return organization


async def find(
    tx: Tx, actor: Actor, organization_id: str, *, to_change: bool = False
) -> Organization:
    """One that he sees, with `to_change` held until the transaction ends.

    Raises OrganizationNotFound.
    """
    query = select(Organization).where(
        Organization.id == organization_id, Organization.tenant_id == actor.tenant_id
    )
    if to_change:
        query = query.with_for_update(key_share=True)
    organization = await tx.scalar(query)
    if organization is None or not (
        actor.role >= api.ROLE_ADMIN or await _member(tx, organization, actor.account_id)
    ):
        raise OrganizationNotFound
    return organization


async def update(
    tx: Tx,
    actor: Actor,
    organization_id: str,
    *,
    name: str | None,
    description: str | None,
    now: datetime,
) -> Organization:
    """Changes what is not None; an empty `description` takes it away.

    Raises NothingToChange if both are None, OrganizationNotFound and NotItsAdmin.
    """
    if name is None and description is None:
        raise NothingToChange
    organization = await _lock(tx, actor, organization_id)
    if name is not None:
        organization.name = name
    if description is not None:
        organization.description = description or None
    await tx.flush()
    await tx.refresh(organization)  # its members have to be counted again
    await _note(tx, "organization.update", organization, now, name=organization.name)
    return organization


async def delete(tx: Tx, actor: Actor, organization_id: str, *, now: datetime) -> None:
    """Takes it away, with who is in it; raises OrganizationNotFound and NotItsAdmin."""
    organization = await _lock(tx, actor, organization_id)
    await tx.delete(organization)
    await _note(tx, "organization.delete", organization, now, name=organization.name)


async def members_of(tx: Tx, actor: Actor, organization_id: str) -> Select[tuple[Membership]]:
    """Who is in it, each with his account; raises OrganizationNotFound."""
    organization = await find(tx, actor, organization_id)
    return select(Membership).where(Membership.organization_id == organization.id)


async def add_member(
    tx: Tx,
    actor: Actor,
    organization_id: str,
    account_id: str,
    role: int,
    *,
    limit: int,
    now: datetime,
) -> Membership:
    """Takes an account of the tenant in; who is in already stays as he is.

    Raises OrganizationNotFound, NotItsAdmin, AccountNotFound, and MemberLimitReached when `limit`
    are in it.
    """
    organization = await _lock(tx, actor, organization_id)
    account = await tx.get(Account, account_id)
    if account is None or account.tenant_id != organization.tenant_id:
        raise AccountNotFound
    member = await _member(tx, organization, account_id)
    if member is not None:
        return member
    counted = select(func.count()).where(Membership.organization_id == organization.id)
    if (await tx.scalar(counted) or 0) >= limit:
        raise MemberLimitReached(limit=limit)
    _enter(tx, organization, account_id, role or MEMBER_ROLE_MEMBER, now)
    await _note(tx, "organization.member.add", organization, now, account_id=account_id)
    return await _require_member(tx, organization, account_id)


async def set_member_role(
    tx: Tx, actor: Actor, organization_id: str, account_id: str, role: int, *, now: datetime
) -> Membership:
    """Makes a member an admin, or no admin.

    Raises OrganizationNotFound, NotItsAdmin, MemberNotFound, and LastAdmin rather than leave it
    without one.
    """
    organization = await _lock(tx, actor, organization_id)
    member = await _require_member(tx, organization, account_id)
    if member.role == role:
        return member
    if role != MEMBER_ROLE_ADMIN:
        await _require_another_admin(tx, member)
    member.role = role
    await _note(
        tx, "organization.member.role", organization, now, account_id=account_id, role=_ROLES[role]
    )
    return member


async def remove_member(
    tx: Tx, actor: Actor, organization_id: str, account_id: str, *, now: datetime
) -> None:
    """Takes a member out. Everybody may leave, but not its last admin: he may delete it.

    Raises OrganizationNotFound, NotItsAdmin, MemberNotFound and LastAdmin.
    """
    if account_id == actor.account_id:
        organization = await find(tx, actor, organization_id, to_change=True)
    else:
        organization = await _lock(tx, actor, organization_id)
    member = await _require_member(tx, organization, account_id)
    await _require_another_admin(tx, member)
    await tx.delete(member)
    await _note(tx, "organization.member.remove", organization, now, account_id=account_id)


_ROLES: Mapping[int, str] = {MEMBER_ROLE_MEMBER: "member", MEMBER_ROLE_ADMIN: "admin"}


def _enter(tx: Tx, organization: Organization, account_id: str, role: int, now: datetime) -> None:
    tx.add(
        Membership(
            id=new_id("membership"),
            organization_id=organization.id,
            account_id=account_id,
            role=role,
            joined_at=now,
        )
    )


async def _lock(tx: Tx, actor: Actor, organization_id: str) -> Organization:
    """One that he may change, held until the transaction ends."""
    organization = await find(tx, actor, organization_id, to_change=True)
    if actor.role < api.ROLE_ADMIN:
        member = await _member(tx, organization, actor.account_id)
        if member is None or member.role != MEMBER_ROLE_ADMIN:
            raise NotItsAdmin
    return organization


async def _require_another_admin(tx: Tx, member: Membership) -> None:
    """Raises LastAdmin if nobody would be one after `member`. The organization is held."""
    if member.role != MEMBER_ROLE_ADMIN:
        return
    another = exists().where(
        Membership.organization_id == member.organization_id,
        Membership.account_id != member.account_id,
        Membership.role == MEMBER_ROLE_ADMIN,
    )
    if not await tx.scalar(select(another)):
        raise LastAdmin


async def _require_member(tx: Tx, organization: Organization, account_id: str) -> Membership:
    member = await _member(tx, organization, account_id)
    if member is None:
        raise MemberNotFound
    return member


async def _member(tx: Tx, organization: Organization, account_id: str) -> Membership | None:
    query = select(Membership).where(
        Membership.organization_id == organization.id, Membership.account_id == account_id
    )
    member: Membership | None = await tx.scalar(query)
    return member


async def _note(
    tx: Tx, action: str, organization: Organization, now: datetime, **details: str
) -> None:
    tenant_id = organization.tenant_id
    await audit.record(
        tx, action, "organization", organization.id, tenant_id=tenant_id, now=now, **details
    )
