"""Names: an account has two, each of them once, in whatever case."""

import asyncio
from typing import Any

import grpc
import pytest
from sqlalchemy import func, select, update

from vlinders.auth.v1 import accounts_pb2 as pb
from vlinders.auth.v1 import sessions_pb2
from vlinders.auth.v1.events_pb2 import TenantCreated
from vlinders_auth.models import Account, Tenant
from vlinders_kit.errors import failure_of

from .conftest import NOW, PASSWORD, Auth, anybody, failed


async def named(
    auth: Auth, username: str = "Ada_L", dialect: str = "maas", **over: Any
) -> pb.Account:
    usual = {"username": username, "email": f"{username}@example.com", "password": PASSWORD}
    request = pb.RegisterByNameRequest(**{**usual, **over})
    return await auth.accounts(anybody(dialect=dialect)).RegisterByName(request)


async def sign_up(auth: Auth, dialect: str = "lyss", **over: Any) -> sessions_pb2.SignIn:
    usual = {
        "username": "Ada_L",
        "email": "ada@example.com",
        "password": PASSWORD,
        "confirm_password": PASSWORD,
    }
    request = sessions_pb2.SignUpRequest(**{**usual, **over})
    return await auth.sessions(anybody(dialect=dialect)).SignUp(request)


async def test_a_username_keeps_its_case_and_names_a_free_tenant(auth: Auth) -> None:
    made = await named(auth, "Ada_L")

    assert (made.username, made.email, made.full_name) == ("Ada_L", "ada_l@example.com", "")
    assert not made.HasField("last_login_at")
    assert await auth.published(TenantCreated) == [
        TenantCreated(tenant_id=made.tenant_id, name="Ada_L", plan="free")
    ]


@pytest.mark.parametrize(
    "name", ["Ada_L", "ada_l", "ADA_L", "Ada_L@example.com", "ADA_L@EXAMPLE.COM"]
)
async def test_either_name_signs_in_in_whatever_case(auth: Auth, name: str) -> None:
    made = await named(auth, "Ada_L")

    opened = await auth.login(name)

    assert opened.account.id == made.id
    assert opened.account.last_login_at.ToSeconds() == NOW.timestamp()


@pytest.mark.parametrize(
    ("over", "reason", "field"),
    [
        ({"email": "ADA_L@example.com", "username": "other"}, "EMAIL_TAKEN", "email"),
        ({"email": "other@example.com", "username": "aDA_l"}, "USERNAME_TAKEN", "username"),
    ],
)
async def test_a_name_that_is_taken_is_told_of_its_field(
    auth: Auth, over: dict[str, str], reason: str, field: str
) -> None:
    await named(auth, "Ada_L")

    for refusal in (await failed(named(auth, **over)), await failed(sign_up(auth, **over))):
        assert (refusal.status, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
        assert [(each.field, each.rule) for each in refusal.violations] == [(field, reason)]


async def test_of_those_who_take_a_username_at_the_same_time_one_wins(auth: Auth) -> None:
    answers = await asyncio.gather(
        *(
            named(auth, "ada_l" if n % 2 else "ADA_L", email=f"ada@{n}.example.com")
            for n in range(10)
        ),
        return_exceptions=True,
    )

    lost = [failure_of(error) for error in answers if isinstance(error, grpc.aio.AioRpcError)]
    assert [each.reason for each in lost] == ["USERNAME_TAKEN"] * 9
    async with auth.db.begin() as tx:
        assert await tx.scalar(select(func.count()).select_from(Tenant)) == 1


async def test_who_signs_up_is_signed_in(auth: Auth) -> None:
    opened = await sign_up(auth)

    ada = await auth.user(opened)
    assert ada.account_id == opened.account.id
    assert opened.account.username == "Ada_L"
    assert opened.account.last_login_at.ToSeconds() == NOW.timestamp()
    assert (opened.expires_in, opened.refresh_token) == (1800, "")


async def test_a_password_that_is_not_confirmed_is_told_of_the_confirmation(auth: Auth) -> None:
    refusal = await failed(sign_up(auth, confirm_password="another"))

    assert refusal.reason == "INVALID_REQUEST"
    assert [(each.field, each.rule) for each in refusal.violations] == [
        ("confirm_password", "confirm_password.same")
    ]


@pytest.mark.parametrize(
    ("dialect", "password", "reason"),
    [
        ("owl", "sixsix", None),
        ("owl", "five5", "INVALID_REQUEST"),
        ("maas", "seven 7", "PASSWORD_TOO_SHORT"),
    ],
)
async def test_how_short_a_password_may_be_depends_on_the_dialect(
    auth: Auth, dialect: str, password: str, reason: str | None
) -> None:
    if reason is None:
        await named(auth, dialect=dialect, password=password)
        return
    refusal = await failed(named(auth, dialect=dialect, password=password))
    assert refusal.reason == reason
    assert [(each.field, each.rule) for each in refusal.violations] == [
        ("password", "string.min_len")
    ]


@pytest.mark.parametrize("username", ["ab", "a" * 51, "ada@example.com", "ada l", "Äda"])
async def test_what_is_no_username_is_refused(auth: Auth, username: str) -> None:
    refusal = await failed(named(auth, username, email="ada@example.com"))

    assert refusal.reason == "INVALID_REQUEST"
    assert {each.field for each in refusal.violations} == {"username"}


async def test_an_owner_takes_other_names_and_signs_in_by_them(auth: Auth) -> None:
    ada = await auth.user(await sign_up(auth))
    me = auth.accounts(ada)

    changed = await me.UpdateMyAccount(
        pb.UpdateMyAccountRequest(username="Countess", email="Countess@Example.com")
    )

    assert (changed.username, changed.email) == ("Countess", "countess@example.com")
    await auth.login("countess")
    assert (await failed(auth.login("Ada_L"))).reason == "INVALID_CREDENTIALS"
    await named(auth, "ADA_L")


async def test_another_email_is_not_verified_and_the_same_one_stays_so(auth: Auth) -> None:
    ada = await auth.user(await sign_up(auth))
    me = auth.accounts(ada)
    async with auth.db.begin() as tx:
        await tx.execute(update(Account).values(email_verified=True))

    same = await me.UpdateMyAccount(pb.UpdateMyAccountRequest(email="ADA@example.com"))
    other = await me.UpdateMyAccount(pb.UpdateMyAccountRequest(email="ada@other.example.com"))

    assert (same.email_verified, other.email_verified) == (True, False)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [({"username": "EVE"}, "USERNAME_TAKEN"), ({"email": "Eve@example.com"}, "EMAIL_TAKEN")],
)
async def test_nobody_takes_anothers_name(auth: Auth, wanted: dict[str, str], reason: str) -> None:
    await named(auth, "eve")
    ada = await auth.user(await sign_up(auth))

    refusal = await failed(
        auth.accounts(ada).UpdateMyAccount(pb.UpdateMyAccountRequest(full_name="A", **wanted))
    )

    assert refusal.reason == reason
    assert [each.field for each in refusal.violations] == list(wanted)
    me = await auth.accounts(ada).GetMyAccount(pb.GetMyAccountRequest())
    assert (me.username, me.full_name) == ("Ada_L", "")


async def test_of_those_who_change_to_a_name_at_the_same_time_one_gets_it(auth: Auth) -> None:
    opened = [await sign_up(auth, username=f"ada{n}", email=f"{n}@example.com") for n in range(4)]
    everybody = [await auth.user(each) for each in opened]

    answers = await asyncio.gather(
        *(
            auth.accounts(ada).UpdateMyAccount(pb.UpdateMyAccountRequest(username=name))
            for ada, name in zip(everybody, ["Countess", "COUNTESS"] * 2, strict=True)
        ),
        return_exceptions=True,
    )

    lost = [failure_of(error) for error in answers if isinstance(error, grpc.aio.AioRpcError)]
    assert [each.reason for each in lost] == ["USERNAME_TAKEN"] * 3


async def test_accounts_are_numbered_from_one(auth: Auth) -> None:
    made = [await named(auth, f"ada-{n}") for n in range(3)]

    assert [each.number for each in made] == [1, 2, 3]
