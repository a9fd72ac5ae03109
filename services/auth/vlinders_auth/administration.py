"""Administration: what those who run the platform see of accounts, and do to them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, Text, any_, func, not_, or_, select

from vlinders.api.v1.options_pb2 import ROLE_OPERATOR
from vlinders.auth.v1.accounts_pb2 import (
    ACCOUNT_STATUS_ACTIVE,
    ACCOUNT_STATUS_INACTIVE,
    AccountStatus,
)
from vlinders.auth.v1.events_pb2 import AccountDisabled, AccountEnabled, RolesChanged
from vlinders_auth import audit
from vlinders_auth.errors import AccountNotFound, LastOperator, OwnAccount
from vlinders_auth.models import Account
from vlinders_kit.db import Tx
from vlinders_kit.events import publish
from vlinders_kit.paging import Key

SORTS: Mapping[str, Key] = {
    "created_at": Account.created_at,
    "email": Account.email,
    "username": func.lower(Account.username, type_=Text()),
}
"""What a list of accounts may be sorted by."""

_LET_IN = Account.status == ACCOUNT_STATUS_ACTIVE
_OPERATOR = any_(Account.roles) == ROLE_OPERATOR


@dataclass(frozen=True)
class Filters:
    """Which accounts are asked for; what is None does not matter."""

    status: int | None = None
    active: bool | None = None
    operator: bool | None = None
    search: str | None = None
    """A part of the e-mail or the username, in any case."""


@dataclass(frozen=True)
class Change:
    """What is to be different about an account; what is None stays."""

    status: int | None = None
    active: bool | None = None
    operator: bool | None = None
    reason: str | None = None
    """Why, for the record."""

    def status_after(self, before: int) -> int:
        if self.status is not None:
            return self.status
        if self.active is None or self.active == (before == ACCOUNT_STATUS_ACTIVE):
            return before
        return ACCOUNT_STATUS_ACTIVE if self.active else ACCOUNT_STATUS_INACTIVE

    def is_operator_after(self, before: bool) -> bool:
        return before if self.operator is None else self.operator


def listed(filters: Filters) -> Select[tuple[Account]]:
    """Everybody who passes."""
    query = select(Account)
    if filters.status is not None:
        query = query.where(Account.status == filters.status)
    if filters.active is not None:
        query = query.where(_LET_IN if filters.active else not_(_LET_IN))
    if filters.operator is not None:
        query = query.where(_OPERATOR if filters.operator else not_(_OPERATOR))
    if filters.search is not None:
        columns = (Account.email, Account.username)
        query = query.where(
            or_(*(column.icontains(filters.search, autoescape=True) for column in columns))
        )
    return query


async def find(tx: Tx, *, account_id: str = "", number: int = 0) -> Account:
    """The account with this id, or else with this number; raises AccountNotFound."""
    key = Account.id == account_id if account_id else Account.number == number
    account = await tx.scalar(select(Account).where(key))
    if account is None:
        raise AccountNotFound
    return account


async def change(
    tx: Tx, account: Account, wanted: Change, *, by_account_id: str, now: datetime
) -> Account:
    """Makes the changes, and tells whom they concern: gateways forget what they knew of him.

    Whoever is to run the platform joins its operators, or leaves them, and stays in his tenant.
    Raises OwnAccount to who would shut himself out or stop running the platform, and LastOperator
    where nobody else who runs it is let in.
    """
    if account.id == by_account_id:
        _require_harmless(account, wanted)
    if wanted.operator is False or wanted.status_after(ACCOUNT_STATUS_ACTIVE) != (
        ACCOUNT_STATUS_ACTIVE
    ):
        # Before the account itself, which is one of them: so that nobody waits in a circle.
        await _require_another_operator(tx, account.id)
    await tx.refresh(account, with_for_update={"key_share": True})
    await _set_status(tx, account, wanted, now)
    await _set_operator(tx, account, wanted, now)
    return account


def _require_harmless(account: Account, wanted: Change) -> None:
    if wanted.status_after(account.status) != ACCOUNT_STATUS_ACTIVE:
        raise OwnAccount(field="active" if wanted.status is None else "status")
    if wanted.operator is False:
        raise OwnAccount(field="operator")


async def _require_another_operator(tx: Tx, account_id: str) -> None:
    """Holds all who run the platform and are let in; raises LastOperator if that is only this."""
    held = await tx.scalars(
        select(Account.id)
        .where(_OPERATOR, _LET_IN)
        .order_by(Account.id)
        .with_for_update(key_share=True)
    )
    if list(held) == [account_id]:
        raise LastOperator


async def _set_status(tx: Tx, account: Account, wanted: Change, now: datetime) -> None:
    before, after = account.status, wanted.status_after(account.status)
    if after == before:
        return
    account.status = after
    account.status_reason = wanted.reason
    account.updated_at = now
    if ACCOUNT_STATUS_ACTIVE in (before, after):
        kind = AccountEnabled if after == ACCOUNT_STATUS_ACTIVE else AccountDisabled
        await publish(tx, kind(account_id=account.id))
    name = AccountStatus.Name(after).removeprefix("ACCOUNT_STATUS_").lower()
    await _record(tx, "admin.account.status", account, wanted, now, status=name)


async def _set_operator(tx: Tx, account: Account, wanted: Change, now: datetime) -> None:
    before = ROLE_OPERATOR in account.roles
    after = wanted.is_operator_after(before)
    if after == before:
        return
    others = [role for role in account.roles if role != ROLE_OPERATOR]
    account.roles = [*others, ROLE_OPERATOR] if after else others
    account.updated_at = now
    await publish(tx, RolesChanged(account_id=account.id, tenant_id=account.tenant_id))
    await _record(tx, "admin.account.role", account, wanted, now, operator=str(after).lower())


async def _record(
    tx: Tx, action: str, account: Account, wanted: Change, now: datetime, **details: str
) -> None:
    if wanted.reason:
        details["reason"] = wanted.reason
    await audit.record(
        tx, action, "user", account.id, tenant_id=account.tenant_id, now=now, **details
    )
