"""Tenants: held while something is decided that concerns all of one."""

from sqlalchemy import select

from vlinders_auth.errors import AccountNotFound
from vlinders_auth.models import Tenant
from vlinders_kit.db import Tx


async def lock(tx: Tx, tenant_id: str) -> Tenant:
    """The tenant, held until the transaction ends: what is counted in it stays as it is.

    Whoever holds accounts or organizations as well takes the tenant first. Raises AccountNotFound
    for a tenant that is none, whose accounts are none either.
    """
    query = select(Tenant).where(Tenant.id == tenant_id).with_for_update(key_share=True)
    tenant = await tx.scalar(query)
    if tenant is None:
        raise AccountNotFound
    return tenant
