"""Administration: who runs the platform sees everybody, lets in, keeps out, and stays."""

import asyncio
from typing import Any

import grpc
import pytest
from sqlalchemy import update

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1 import accounts_pb2 as pb
from vlinders.auth.v1.events_pb2 import AccountDisabled, AccountEnabled, Audited, RolesChanged
from vlinders_auth.bootstrap import Administrator, bootstrap
from vlinders_auth.models import Account
from vlinders_kit.errors import failure_of

from .conftest import Auth, failed

ROOT = Administrator("root@example.com", "root", "a long first password", None)
ACTIVE, INACTIVE, SUSPENDED = (
    pb.ACCOUNT_STATUS_ACTIVE,
    pb.ACCOUNT_STATUS_INACTIVE,
    pb.ACCOUNT_STATUS_SUSPENDED,
)


async def root(auth: Auth) -> Caller:
    """The administrator, signed in."""
    await bootstrap(auth.db, auth.passwords, ROOT, auth.clock)
    return await auth.user(await auth.login(ROOT.email, ROOT.password))


async def set_status(auth: Auth, by: Caller, **request: Any) -> pb.Account:
    return await auth.administration(by).SetAccountStatus(pb.SetAccountStatusRequest(**request))


async def change(auth: Auth, by: Caller, account_id: str, **wanted: Any) -> pb.Account:
    request = pb.UpdateAccountRequest(account_id=account_id, **wanted)
    return await auth.administration(by).UpdateAccount(request)


async def listed(auth: Auth, by: Caller, **request: Any) -> list[str]:
    """Usernames, since tests know them."""
    request = {"page": {"size": 10}, **request}
    answer = await auth.administration(by).ListAccounts(pb.ListAccountsRequest(**request))
    return [account.username for account in answer.accounts]


async def test_who_is_kept_out_is_so_with_all_he_has(auth: Auth) -> None:
    admin, ada = await root(auth), await auth.register()
    opened, key = await auth.login(), await auth.key(ada)
    signed_in = await auth.user(opened)

    kept_out = await set_status(
        auth, admin, account_id=ada.account_id, status=SUSPENDED, reason="spam"
    )

    assert (kept_out.status, kept_out.active) == (SUSPENDED, False)
    for refused in (
        auth.login(),
        auth.introspect(session_id=signed_in.session_id),
        auth.introspect(api_key=key.key),
    ):
        assert (await failed(refused)).reason == "ACCOUNT_DISABLED"
    await set_status(auth, admin, account_number=kept_out.number, status=ACTIVE)
    await auth.introspect(api_key=key.key)
    assert await auth.published(AccountDisabled, AccountEnabled) == [
        AccountDisabled(account_id=ada.account_id),
        AccountEnabled(account_id=ada.account_id),
    ]


async def test_only_what_changes_is_told(auth: Auth) -> None:
    admin, ada = await root(auth), await auth.register()

    for status in (ACTIVE, INACTIVE, INACTIVE, SUSPENDED):
        await set_status(auth, admin, account_id=ada.account_id, status=status, reason="why")
    same = await change(auth, admin, ada.account_id)

    assert same.status == SUSPENDED
    assert len(await auth.published(AccountDisabled, AccountEnabled)) == 1
    told = [event for event in await auth.published(Audited) if isinstance(event, Audited)]
    assert [(it.actor_account_id, it.resource_id, it.tenant_id, dict(it.details)) for it in told][
        -2:
    ] == [
        (admin.account_id, ada.account_id, ada.tenant_id, {"status": status, "reason": "why"})
        for status in ("inactive", "suspended")
    ]


@pytest.mark.parametrize(
    ("before", "active", "after"),
    [(SUSPENDED, False, SUSPENDED), (SUSPENDED, True, ACTIVE), (ACTIVE, False, INACTIVE)],
)
async def test_to_be_inactive_leaves_a_sanction_as_it_is(
    auth: Auth, before: int, active: bool, after: int
) -> None:
    admin, ada = await root(auth), await auth.register()
    await set_status(auth, admin, account_id=ada.account_id, status=before)

    assert (await change(auth, admin, ada.account_id, active=active)).status == after


async def test_who_joins_the_operators_stays_in_his_tenant(auth: Auth) -> None:
    admin, ada = await root(auth), await auth.register()

    joined = await change(auth, admin, ada.account_id, operator=True)

    assert (joined.operator, joined.tenant_id) == (True, ada.tenant_id)
    assert joined.roles == [api.ROLE_OWNER, api.ROLE_DEVELOPER]
    signed_in = await auth.user(await auth.login())
    assert max(signed_in.roles) == api.ROLE_OPERATOR
    assert await listed(auth, signed_in, operator=True) == ["ada", "root"]
    left = await change(auth, admin, ada.account_id, operator=False)
    assert (left.operator, left.roles) == (False, joined.roles)
    assert (
        await auth.published(RolesChanged)
        == [RolesChanged(account_id=ada.account_id, tenant_id=ada.tenant_id)] * 2
    )


@pytest.mark.parametrize(
    ("wanted", "field"), [({"active": False}, "active"), ({"operator": False}, "operator")]
)
async def test_nobody_shuts_himself_out_or_stops_running_the_platform(
    auth: Auth, wanted: dict[str, bool], field: str
) -> None:
    admin = await root(auth)
    await change(auth, admin, (await auth.register()).account_id, operator=True)

    refusal = await failed(change(auth, admin, admin.account_id, **wanted))
    by_status = await failed(set_status(auth, admin, account_id=admin.account_id, status=INACTIVE))

    assert (refusal.status, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "OWN_ACCOUNT")
    assert [each.field for each in refusal.violations] == [field]
    assert [each.field for each in by_status.violations] == ["status"]
    assert (await set_status(auth, admin, account_id=admin.account_id, status=ACTIVE)).active


@pytest.mark.parametrize("wanted", [{"active": False}, {"operator": False}])
async def test_of_operators_who_shut_each_other_out_one_stays(
    auth: Auth, wanted: dict[str, bool]
) -> None:
    admin = await root(auth)
    others = [await auth.register(f"op{n}@example.com") for n in range(3)]
    for other in others:
        await change(auth, admin, other.account_id, operator=True)
        other.MergeFrom(Caller(roles=[api.ROLE_OPERATOR]))
    everybody = [admin, *others]

    answers = await asyncio.gather(
        *(
            change(auth, by, whom.account_id, **wanted)
            for by, whom in zip(everybody, [*others, admin], strict=True)
        ),
        return_exceptions=True,
    )

    lost = [failure_of(error) for error in answers if isinstance(error, grpc.aio.AioRpcError)]
    assert [refusal.reason for refusal in lost] == ["LAST_OPERATOR"]


@pytest.mark.parametrize(
    "names", [{}, {"account_number": 0}, {"account_id": "u", "account_number": 1}]
)
async def test_an_account_has_to_be_named_once(auth: Auth, names: dict[str, Any]) -> None:
    admin = await root(auth)

    refusal = await failed(set_status(auth, admin, status=INACTIVE, **names))

    assert [each.field for each in refusal.violations] == ["account_number"]


async def test_an_account_that_is_none_is_not_found(auth: Auth) -> None:
    admin = await root(auth)

    for request in ({"account_id": "user_0"}, {"account_number": 4711}, {"account_number": 2**62}):
        refusal = await failed(set_status(auth, admin, status=INACTIVE, **request))
        assert refusal.reason == "ACCOUNT_NOT_FOUND"
    assert (await failed(change(auth, admin, "user_0"))).reason == "ACCOUNT_NOT_FOUND"


@pytest.mark.parametrize("roles", [[api.ROLE_OWNER], [api.ROLE_ADMIN], []])
async def test_only_who_runs_the_platform_is_let_in(auth: Auth, roles: list[Any]) -> None:
    ada = await auth.register()
    ada.ClearField("roles")
    ada.roles.extend(roles)

    for refused in (
        listed(auth, ada),
        set_status(auth, ada, account_id=ada.account_id, status=INACTIVE),
        change(auth, ada, ada.account_id, operator=True),
    ):
        assert (await failed(refused)).status is grpc.StatusCode.PERMISSION_DENIED


async def some(auth: Auth) -> Caller:
    """The administrator and four accounts, registered a second apart."""
    admin = await root(auth)
    names = {"b_b": "Zoe@example.com", "a%a": "yan@example.com", "C/c": "x_y@example.com"}
    for username, email in (*names.items(), ("abba", "abba@other.example.com")):
        auth.clock.advance(1)
        ada = await auth.register(email)
        async with auth.db.begin() as tx:
            mine = update(Account).where(Account.id == ada.account_id)
            await tx.execute(mine.values(username=username))
    await set_status(auth, admin, account_id=ada.account_id, status=SUSPENDED)
    return admin


FOUND: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["abba", "C/c", "a%a", "b_b", "root"]),
    ({"search": "A"}, ["abba", "C/c", "a%a", "b_b", "root"]),
    ({"search": "BB"}, ["abba"]),
    ({"search": "%"}, ["a%a"]),
    ({"search": "_"}, ["C/c", "b_b"]),
    ({"search": "/C"}, ["C/c"]),
    ({"search": "ZOE"}, ["b_b"]),
    ({"search": "\\"}, []),
    ({"status": SUSPENDED}, ["abba"]),
    ({"active": False}, ["abba"]),
    ({"active": True, "operator": False}, ["C/c", "a%a", "b_b"]),
    ({"operator": True}, ["root"]),
    ({"page": {"sort": "username"}}, ["a%a", "abba", "b_b", "C/c", "root"]),
    ({"page": {"sort": "-email"}}, ["b_b", "a%a", "C/c", "root", "abba"]),
    ({"page": {"sort": "created_at"}}, ["root", "b_b", "a%a", "C/c", "abba"]),
]


async def test_accounts_are_found_and_sorted_as_asked_page_by_page(auth: Auth) -> None:
    admin = await some(auth)
    service = auth.administration(admin)

    for asked, expected in FOUND:
        found, page = [], {"size": 2, "with_total": True, **asked.get("page", {})}
        while True:
            request = pb.ListAccountsRequest(**{**asked, "page": page})
            answer = await service.ListAccounts(request)
            found += [account.username for account in answer.accounts]
            assert answer.page.total == len(expected)
            if not answer.page.next_token:
                break
            page["token"] = answer.page.next_token
        assert found == expected, asked
