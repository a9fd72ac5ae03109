"""API keys of an account: issued, listed, used and revoked."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Select, func, select, text, update

from vlinders.auth.v1.events_pb2 import ApiKeyRevoked
from vlinders_auth import accounts, roles
from vlinders_auth.dialects import Rules
from vlinders_auth.errors import (
    ApiKeyNotFound,
    ExpiryInThePast,
    KeyLimitReached,
    PermissionNotHeld,
    PermissionUnknown,
)
from vlinders_auth.models import Account, ApiKey
from vlinders_kit import api_keys
from vlinders_kit.db import Tx
from vlinders_kit.events import publish
from vlinders_kit.ids import new_id
from vlinders_kit.paging import Key

SORTS: Mapping[str, Key] = {
    "name": ApiKey.name,
    "created_at": ApiKey.created_at,
    # A key that was never used is older than any use.
    "last_used_at": func.coalesce(ApiKey.last_used_at, text("timestamptz 'epoch'")),
}
"""What a list of keys may be sorted by."""

_LOCK_USED = text("SELECT FROM api_key WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE")
_NOTE_USE = text("""
    UPDATE api_key SET last_used_at = used.at
    FROM unnest(CAST(:ids AS text[]), CAST(:at AS timestamptz[])) AS used (id, at)
    WHERE api_key.id = used.id
        AND (api_key.last_used_at IS NULL OR api_key.last_used_at < used.at)
""")


async def issue(
    tx: Tx,
    account_id: str,
    name: str,
    permissions: Sequence[str],
    rules: Rules,
    *,
    expires_at: datetime | None,
    hourly_limit: int | None,
    limit: int,
    now: datetime,
) -> tuple[ApiKey, str]:
    """A new key and its secret, which is kept nowhere.

    Raises ExpiryInThePast, PermissionUnknown for what no key of the dialect is allowed,
    PermissionNotHeld for what the account's role does not include, and KeyLimitReached when it has
    `limit` keys that work.
    """
    if expires_at is not None and expires_at <= now:
        raise ExpiryInThePast
    _require_known(permissions, rules)
    account = await accounts.lock(tx, account_id)
    for permission in permissions:
        if permission not in roles.scopes_of(account.roles):
            raise PermissionNotHeld(permission=permission)
    if await _count_working(tx, account_id, now) >= limit:
        raise KeyLimitReached(limit=limit)
    secret = api_keys.new(rules.keys.form)
    key = keep(tx, account, secret, name, permissions, rules, expires_at=expires_at, now=now)
    if key.hourly_limit is not None and hourly_limit is not None:
        key.hourly_limit = hourly_limit
    return key, secret


def keep(
    tx: Tx,
    account: Account,
    secret: str,
    name: str,
    permissions: Sequence[str],
    rules: Rules,
    *,
    expires_at: datetime | None,
    now: datetime,
) -> ApiKey:
    """Lets `secret` stand for the account from now on."""
    key = ApiKey(
        id=new_id("key"),
        account_id=account.id,
        name=name,
        sha256=api_keys.digest(secret),
        key_prefix=api_keys.prefix_of(secret),
        permissions=list(permissions),
        dialect=rules.name,
        hourly_limit=rules.keys.hourly_limit,
        created_at=now,
        expires_at=expires_at,
    )
    tx.add(key)
    return key


def of_account(account_id: str) -> Select[tuple[ApiKey]]:
    """The account's keys that are not revoked."""
    return select(ApiKey).where(ApiKey.account_id == account_id, ApiKey.revoked_at.is_(None))


def listed(account_id: str, rules: Rules, *, name: str | None) -> Select[tuple[ApiKey]]:
    """Those that were issued through the dialect, whose clients could not read others.

    With `name`, those of exactly this name.
    """
    query = of_account(account_id).where(ApiKey.dialect == rules.name)
    return query if name is None else query.where(ApiKey.name == name)


async def revoke(
    tx: Tx, account_id: str, api_key_id: str, rules: Rules, *, now: datetime
) -> ApiKey:
    """Ends a key that the account sees; raises ApiKeyNotFound for any other, or one that is."""
    key = await tx.scalar(
        listed(account_id, rules, name=None).where(ApiKey.id == api_key_id).with_for_update()
    )
    if key is None:
        raise ApiKeyNotFound
    key.revoked_at = now
    await publish(tx, ApiKeyRevoked(api_key_id=key.id, account_id=account_id))
    return key


async def revoke_all(tx: Tx, account_id: str, *, now: datetime) -> None:
    """Ends every key of the account, of whatever dialect."""
    ended = await tx.scalars(
        update(ApiKey)
        .where(ApiKey.account_id == account_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=now)
        .returning(ApiKey.id)
    )
    await publish(tx, *(ApiKeyRevoked(api_key_id=id, account_id=account_id) for id in ended))


async def note_use(tx: Tx, uses: Mapping[str, datetime]) -> None:
    """Notes when keys were used, by id; what is noted never goes back.

    Gateways report the same keys at the same time, so the rows are locked in one order.
    """
    given = {"ids": list(uses), "at": list(uses.values())}
    await tx.execute(_LOCK_USED, {"ids": given["ids"]})
    await tx.execute(_NOTE_USE, given)


def _require_known(permissions: Sequence[str], rules: Rules) -> None:
    known = rules.keys.permissions
    for place, permission in enumerate(permissions):
        if permission not in known:
            raise PermissionUnknown(place=place, known=", ".join(sorted(known)))


async def _count_working(tx: Tx, account_id: str, now: datetime) -> int:
    working = of_account(account_id).where(ApiKey.expires_at.is_(None) | (ApiKey.expires_at > now))
    return await tx.scalar(select(func.count()).select_from(working.subquery())) or 0
