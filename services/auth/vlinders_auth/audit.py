"""Audit: who did what, from where, told with the change itself or not at all."""

from datetime import datetime

from vlinders.auth.v1.events_pb2 import Audited
from vlinders_auth.models import Account
from vlinders_kit.callers import caller
from vlinders_kit.db import Tx
from vlinders_kit.events import publish


async def record(
    tx: Tx,
    action: str,
    resource_type: str,
    resource_id: str,
    *,
    tenant_id: str,
    now: datetime,
    actor_account_id: str | None = None,
    **details: str,
) -> None:
    """Tells that whoever makes the call being served has done `action`, as `api_key.create`.

    `actor_account_id` is for calls that know better. The tenant is that of what it was done to. No
    detail may be a secret.
    """
    by = caller()
    event = Audited(
        action=action,
        actor_account_id=by.account_id if actor_account_id is None else actor_account_id,
        tenant_id=tenant_id,
        resource_type=resource_type,
        resource_id=resource_id,
        client_address=by.client_address,
        request_id=by.request_id,
        dialect=by.dialect,
        details=details,
    )
    event.at.FromDatetime(now)
    await publish(tx, event)


async def record_own(
    tx: Tx, action: str, account: Account, *, now: datetime, **details: str
) -> None:
    """Tells what somebody has done with his own account, as `user.login`, also while signing in."""
    await record(
        tx,
        action,
        "user",
        account.id,
        tenant_id=account.tenant_id,
        now=now,
        actor_account_id=account.id,
        **details,
    )
