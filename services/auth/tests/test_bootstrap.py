"""Bootstrap: the first start makes what is missing, and no start changes what is there."""

import asyncio
import dataclasses

import pytest
from sqlalchemy import select, update

from vlinders.api.v1 import options_pb2 as api
from vlinders.auth.v1.accounts_pb2 import GetMyAccountRequest
from vlinders.auth.v1.api_keys_pb2 import RevokeApiKeyRequest
from vlinders.auth.v1.events_pb2 import AccountRegistered, TenantCreated
from vlinders_auth.bootstrap import Administrator, AdministratorIsSomebodyElse, bootstrap
from vlinders_auth.models import Account, ApiKey, Tenant
from vlinders_kit import api_keys
from vlinders_kit.testing import a_user

from .conftest import Auth

KEY = api_keys.new()
WANTED = Administrator("Admin@Example.com", "root", "a long first password", KEY)


async def start(auth: Auth, wanted: Administrator = WANTED) -> None:
    await bootstrap(auth.db, auth.passwords, wanted, auth.clock)


async def test_replicas_that_start_together_make_one_of_each(auth: Auth) -> None:
    await asyncio.gather(*(start(auth) for _ in range(4)))

    async with auth.db.begin() as tx:
        tenant = (await tx.scalars(select(Tenant))).one()
        account = (await tx.scalars(select(Account))).one()
        key = (await tx.scalars(select(ApiKey))).one()
    assert (tenant.plan, tenant.operator) == ("operator", True)
    assert (account.email, account.username) == ("admin@example.com", "root")
    assert key.sha256 == api_keys.digest(KEY)
    assert await auth.published(TenantCreated, AccountRegistered) == [
        TenantCreated(tenant_id=tenant.id, name="Operator", plan="operator", operator=True),
        AccountRegistered(account_id=account.id, tenant_id=tenant.id),
    ]


async def test_password_and_key_work_and_are_the_operators(auth: Auth) -> None:
    await start(auth)
    await auth.login("admin@example.com", "a long first password")

    caller = (await auth.introspect(api_key=KEY)).caller

    assert (caller.plan, max(caller.roles)) == ("operator", api.ROLE_OPERATOR)
    assert caller.scopes == ["inference:read", "inference:write", "usage:read"]
    me = await auth.accounts(a_user(account_id=caller.account_id)).GetMyAccount(
        GetMyAccountRequest()
    )
    assert me.roles == [api.ROLE_OWNER, api.ROLE_ADMIN, api.ROLE_DEVELOPER]


async def test_a_later_start_neither_resets_a_password_nor_revives_a_key(auth: Auth) -> None:
    await start(auth)
    caller = (await auth.introspect(api_key=KEY)).caller
    changed = await auth.passwords.hash("a password of his own")
    async with auth.db.begin() as tx:
        await tx.execute(update(Account).values(password_hash=changed))
    revoke = RevokeApiKeyRequest(api_key_id=caller.api_key_id)
    await auth.keys(a_user(account_id=caller.account_id)).RevokeApiKey(revoke)

    await start(auth, dataclasses.replace(WANTED, password="another long password"))

    await auth.login("admin@example.com", "a password of his own")
    async with auth.db.begin() as tx:
        assert (await tx.scalars(select(ApiKey))).one().revoked_at is not None


async def test_a_new_key_in_the_settings_is_added(auth: Auth) -> None:
    await start(auth)
    another = api_keys.new()

    await start(auth, dataclasses.replace(WANTED, api_key=another))
    await start(auth, dataclasses.replace(WANTED, api_key=None))

    for key in (KEY, another):
        await auth.introspect(api_key=key)


async def test_a_user_is_never_made_an_administrator_by_his_email(auth: Auth) -> None:
    await start(auth)
    await auth.register("eve@example.com")

    with pytest.raises(AdministratorIsSomebodyElse):
        await start(auth, dataclasses.replace(WANTED, email="eve@example.com"))
