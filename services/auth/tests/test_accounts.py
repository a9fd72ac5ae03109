"""Accounts: signing up, and what its owner sees and changes."""

import asyncio

import grpc
import pytest
from sqlalchemy import func, select

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1 import accounts_pb2 as pb
from vlinders.auth.v1.events_pb2 import AccountRegistered, TenantCreated
from vlinders_auth.models import Account, Tenant
from vlinders_kit.errors import failure_of
from vlinders_kit.testing import a_user, an_api_key

from .conftest import NOW, PASSWORD, Auth


async def test_who_signs_up_owns_a_free_tenant_of_his_own(auth: Auth) -> None:
    ada = await auth.register("Ada@Example.com", tenant_name="Engines")

    account = await auth.accounts(ada).GetMyAccount(pb.GetMyAccountRequest())
    assert account == pb.Account(
        id=ada.account_id,
        email="ada@example.com",
        full_name="Ada",
        tenant_id=ada.tenant_id,
        roles=[api.ROLE_OWNER, api.ROLE_DEVELOPER],
        created_at=NOW,
        username="ada",
        status=pb.ACCOUNT_STATUS_ACTIVE,
        updated_at=NOW,
        number=1,
        active=True,
    )
    assert await auth.published(TenantCreated, AccountRegistered) == [
        TenantCreated(tenant_id=ada.tenant_id, name="Engines", plan="free"),
        AccountRegistered(account_id=ada.account_id, tenant_id=ada.tenant_id),
    ]


async def test_of_those_who_register_an_email_at_the_same_time_one_wins(auth: Auth) -> None:
    answers = await asyncio.gather(
        *(auth.register(email) for email in ["ada@example.com", "ADA@example.com"] * 6),
        return_exceptions=True,
    )

    won = [answer for answer in answers if isinstance(answer, Caller)]
    lost = [failure_of(error) for error in answers if isinstance(error, grpc.aio.AioRpcError)]
    assert len(won) == 1
    assert {(failure.reason, failure.violations[0].field) for failure in lost} == {
        ("EMAIL_TAKEN", "email")
    }
    async with auth.db.begin() as tx:
        assert await tx.scalar(select(func.count()).select_from(Tenant)) == 1


async def test_same_local_parts_at_the_same_time_get_usernames_of_their_own(auth: Auth) -> None:
    await asyncio.gather(*(auth.register(f"ada@{n}.example.com") for n in range(8)))

    async with auth.db.begin() as tx:
        names = (await tx.scalars(select(Account.username))).all()
    assert len(set(names)) == 8
    assert "ada" in names
    assert all(name.startswith("ada") for name in names)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "ada"),
        ("email", "ada\0@example.com"),
        ("email", f"{'a' * 64}@{'b.' * 100}example.com"),
        ("password", "short"),
        ("password", "p" * 129),
        ("full_name", ""),
        ("full_name", "A\0da"),
        ("tenant_name", "t" * 101),
    ],
)
async def test_a_field_that_is_wrong_is_named(auth: Auth, field: str, value: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await auth.register(**{field: value})

    failure = failure_of(refused.value)
    assert failure.status is grpc.StatusCode.INVALID_ARGUMENT
    assert {violation.field for violation in failure.violations} == {field}


async def test_an_owner_changes_what_he_names_and_nothing_else(auth: Auth) -> None:
    ada = await auth.register()
    me = auth.accounts(ada)
    before = await me.GetMyAccount(pb.GetMyAccountRequest())
    auth.clock.advance(60)

    await me.UpdateMyAccount(pb.UpdateMyAccountRequest(avatar_url="https://example.com/ada.png"))
    changed = await me.UpdateMyAccount(pb.UpdateMyAccountRequest(full_name="Ada Lovelace"))

    before.MergeFrom(
        pb.Account(
            full_name="Ada Lovelace",
            avatar_url="https://example.com/ada.png",
            updated_at=auth.clock.now(),
        )
    )
    assert changed == before
    cleared = await me.UpdateMyAccount(pb.UpdateMyAccountRequest(avatar_url=""))
    assert not cleared.HasField("avatar_url")


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.UpdateMyAccountRequest(), "NOTHING_TO_CHANGE"),
        (pb.UpdateMyAccountRequest(full_name=""), "INVALID_REQUEST"),
        (pb.UpdateMyAccountRequest(avatar_url="javascript:alert(1)"), "INVALID_REQUEST"),
        (pb.UpdateMyAccountRequest(avatar_url="https://"), "INVALID_REQUEST"),
    ],
)
async def test_a_change_that_makes_no_sense_is_refused(
    auth: Auth, request_: pb.UpdateMyAccountRequest, reason: str
) -> None:
    ada = await auth.register()

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await auth.accounts(ada).UpdateMyAccount(request_)

    assert failure_of(refused.value).reason == reason


async def test_a_change_of_nothing_is_a_mistake_in_the_canonical_dialect_alone(auth: Auth) -> None:
    ada = await auth.register()
    before = await auth.accounts(ada).GetMyAccount(pb.GetMyAccountRequest())
    auth.clock.advance(60)

    for dialect in ("maas", "massrouter", "lyss", "owl"):
        ada.dialect = dialect
        assert await auth.accounts(ada).UpdateMyAccount(pb.UpdateMyAccountRequest()) == before


async def test_an_account_that_is_gone_is_not_found(auth: Auth) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await auth.accounts(a_user()).GetMyAccount(pb.GetMyAccountRequest())

    assert failure_of(refused.value).reason == "ACCOUNT_NOT_FOUND"


async def test_an_api_key_does_not_open_the_account(auth: Auth) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await auth.accounts(an_api_key()).GetMyAccount(pb.GetMyAccountRequest())

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_neither_password_nor_hash_is_in_any_event(auth: Auth) -> None:
    await auth.register()

    events = await auth.published(TenantCreated, AccountRegistered)
    said = b"".join(event.SerializeToString() for event in events)
    assert PASSWORD.encode() not in said
    assert b"argon2" not in said
