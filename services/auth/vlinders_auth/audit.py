"""Audit: who did what, from where, told with the change itself or not at all."""

from datetime import datetime

from vlinders.auth.v1.events_pb2 import Audited
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
    """Tells that whoever makes the call being served has done `action`, as `user.login`.

    `actor_account_id` says who it is where the call could not: he signs in with it. The tenant is
    that of what it was done to. No detail may be a secret.
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
