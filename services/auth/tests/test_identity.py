"""Introspection: whom a credential stands for, as things are at that moment."""

import base64
import json
from datetime import timedelta
from typing import Any

import grpc
import pytest
from sqlalchemy import update

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1.accounts_pb2 import ACCOUNT_STATUS_INACTIVE
from vlinders.auth.v1.api_keys_pb2 import RevokeApiKeyRequest
from vlinders.auth.v1.identity_pb2 import IntrospectRequest, IntrospectResponse
from vlinders_auth import roles
from vlinders_auth.models import Account, Tenant
from vlinders_kit import api_keys
from vlinders_kit.errors import Failure, failure_of
from vlinders_kit.testing import a_part, a_user

from .conftest import DAYS_30, NOW, Auth


async def refused(auth: Auth, **credential: Any) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await auth.introspect(**credential)
    return failure_of(error.value)


async def test_an_api_key_stands_for_its_maker_with_the_scopes_of_the_key(auth: Auth) -> None:
    ada = await auth.register()
    made = await auth.key(ada, permissions=["usage:read", "inference:write"])

    answer = await auth.introspect(api_key=made.key)

    assert answer.caller == Caller(
        kind=Caller.KIND_API_KEY,
        account_id=ada.account_id,
        tenant_id=ada.tenant_id,
        roles=[api.ROLE_OWNER, api.ROLE_DEVELOPER],
        scopes=["inference:write", "usage:read"],
        api_key_id=made.id,
        plan="free",
        dialect="vlinders",
    )
    assert answer.cache_for.ToTimedelta() == timedelta(seconds=30)
    assert not answer.HasField("expires_at")


async def test_a_session_stands_for_its_user(auth: Auth) -> None:
    ada = await auth.register()
    opened = await auth.login()
    payload = opened.access_token.split(".")[1]
    session_id = json.loads(base64.urlsafe_b64decode(payload + "=="))["sid"]

    answer = await auth.introspect(session_id=session_id)

    assert answer == IntrospectResponse(
        caller=Caller(
            kind=Caller.KIND_USER,
            account_id=ada.account_id,
            tenant_id=ada.tenant_id,
            roles=[api.ROLE_OWNER, api.ROLE_DEVELOPER],
            scopes=sorted(roles.scopes_of([api.ROLE_OWNER])),
            session_id=session_id,
            plan="free",
        ),
        expires_at=NOW + DAYS_30,
        cache_for=timedelta(seconds=30),
    )


async def test_a_change_of_plan_or_roles_shows_at_the_next_question(auth: Auth) -> None:
    made = await auth.key(await auth.register())
    async with auth.db.begin() as tx:
        await tx.execute(update(Tenant).values(plan="pro"))
        await tx.execute(update(Account).values(roles=[api.ROLE_DEVELOPER]))

    caller = (await auth.introspect(api_key=made.key)).caller

    assert (caller.plan, list(caller.roles)) == ("pro", [api.ROLE_DEVELOPER])


async def test_a_key_ends_at_the_second_it_expires(auth: Auth) -> None:
    made = await auth.key(await auth.register(), expires_at=NOW + timedelta(seconds=60))

    auth.clock.advance(59)
    answer = await auth.introspect(api_key=made.key)
    assert answer.expires_at.ToSeconds() == NOW.timestamp() + 60
    auth.clock.advance(1)
    assert (await refused(auth, api_key=made.key)).reason == "API_KEY_EXPIRED"


async def test_all_that_is_not_valid_is_refused_alike(auth: Auth) -> None:
    ada = await auth.register()
    made = await auth.key(ada)
    await auth.keys(ada).RevokeApiKey(RevokeApiKeyRequest(api_key_id=made.id))

    unknown = await refused(auth, api_key=api_keys.new())
    assert await refused(auth, api_key=made.key) == unknown
    assert await refused(auth, session_id="session_0") == unknown
    assert await refused(auth, session_id="' OR 1=1 --") == unknown


async def test_a_disabled_account_is_told_apart_from_an_invalid_credential(auth: Auth) -> None:
    made = await auth.key(await auth.register())
    async with auth.db.begin() as tx:
        await tx.execute(update(Account).values(status=ACCOUNT_STATUS_INACTIVE))

    assert (await refused(auth, api_key=made.key)).reason == "ACCOUNT_DISABLED"


@pytest.mark.parametrize("caller", [a_user(), a_part("inference"), Caller()])
async def test_only_gateways_may_ask(auth: Auth, caller: Caller) -> None:
    request = IntrospectRequest(session_id="session_0")

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await auth.identity(caller).Introspect(request)

    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_digest_of_another_length_is_no_digest(auth: Auth) -> None:
    assert (await refused(auth, api_key_sha256=b"short")).reason == "INVALID_REQUEST"
    assert (await refused(auth)).reason == "INVALID_REQUEST"
