"""Organizations: who sees one, who changes it, and what holds when many do so at once."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, select

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders.api.v1.options_pb2 import Page
from vlinders.auth.v1 import organizations_pb2 as pb
from vlinders.auth.v1.events_pb2 import Audited
from vlinders_auth.models import Membership
from vlinders_kit.testing import a_user, an_api_key

from .conftest import BOUNDS, NOW, Auth, at_once, failed, reasons, refused

ADMIN, MEMBER = pb.MEMBER_ROLE_ADMIN, pb.MEMBER_ROLE_MEMBER


async def made(auth: Auth, by: Caller, name: str = "Engineering", **over: Any) -> str:
    """The id of a new organization."""
    request = pb.CreateOrganizationRequest(name=name, **over)
    answer = await auth.organizations(by).CreateOrganization(request)
    return str(answer.id)


async def add(auth: Auth, by: Caller, organization: str, who: Caller, role: int = MEMBER) -> Any:
    return await auth.organizations(by).AddOrganizationMember(
        pb.AddOrganizationMemberRequest(
            organization_id=organization,
            account_id=who.account_id,
            role=role,  # type: ignore[arg-type]
        )
    )


async def names(auth: Auth, who: Caller, **page: Any) -> list[str]:
    request = pb.ListOrganizationsRequest(page=Page(**page))
    told = await auth.organizations(who).ListOrganizations(request)
    return [row.name for row in told.organizations]


async def members(auth: Auth, who: Caller, organization: str) -> list[tuple[str, int]]:
    request = pb.ListOrganizationMembersRequest(organization_id=organization)
    told = await auth.organizations(who).ListOrganizationMembers(request)
    return [(row.email.partition("@")[0], row.role) for row in told.members]


async def test_its_maker_is_its_first_member_and_admin(auth: Auth) -> None:
    ada = await auth.register()

    told = await auth.organizations(ada).CreateOrganization(
        pb.CreateOrganizationRequest(name="Engineering", description="Main team")
    )

    assert told.id.startswith("org_")
    wanted = pb.CreateOrganizationResponse(
        id=told.id, name="Engineering", description="Main team", created_at=told.created_at
    )
    assert told == wanted
    assert told.created_at.ToDatetime() == NOW.replace(tzinfo=None)
    one = pb.GetOrganizationRequest(organization_id=told.id)
    shown = await auth.organizations(ada).GetOrganization(one)
    assert (shown.member_count, shown.description) == (1, "Main team")
    assert await members(auth, ada, told.id) == [("ada", ADMIN)]


async def test_a_list_has_what_one_is_a_member_of_in_the_order_asked_for(auth: Auth) -> None:
    ada = await auth.register()
    bob = await auth.colleague(ada, "bob")
    for name in ("Beta", "Alpha", "Gamma"):
        auth.clock.advance(1)
        last = await made(auth, ada, name)
    await add(auth, ada, last, bob)
    await made(auth, bob, "Bob's own")

    assert await names(auth, ada) == ["Gamma", "Alpha", "Beta"]
    assert await names(auth, ada, sort="name") == ["Alpha", "Beta", "Gamma"]
    assert await names(auth, ada, sort="-created_at") == ["Gamma", "Alpha", "Beta"]
    assert (await names(auth, ada, sort="-member_count"))[0] == "Gamma"
    assert await names(auth, bob, sort="-name") == ["Gamma", "Bob's own"]


async def test_pages_by_the_count_of_members_neither_repeat_nor_leave_out(auth: Auth) -> None:
    ada = await auth.register()
    bob = await auth.colleague(ada, "bob")
    for number in range(4):
        organization = await made(auth, ada, f"o{number}")
        if number % 2:
            await add(auth, ada, organization, bob)
    seen: list[str] = []
    page = Page(size=1, sort="-member_count", with_total=True)
    while True:
        told = await auth.organizations(ada).ListOrganizations(
            pb.ListOrganizationsRequest(page=page)
        )
        seen += [row.name for row in told.organizations]
        assert told.page.total == 4
        if not told.page.next_token:
            break
        page.token = told.page.next_token

    assert seen == ["o3", "o1", "o2", "o0"]


async def test_a_list_is_filtered_by_the_whole_name(auth: Auth) -> None:
    ada = await auth.register()
    await made(auth, ada, "Engineering")
    await made(auth, ada, "Engineer")

    told = await auth.organizations(ada).ListOrganizations(
        pb.ListOrganizationsRequest(name="Engineer")
    )

    assert [row.name for row in told.organizations] == ["Engineer"]


@pytest.mark.parametrize("tenant", ["another", "the same"])
async def test_what_one_does_not_see_is_as_what_does_not_exist(auth: Auth, tenant: str) -> None:
    ada = await auth.register()
    organization = await made(auth, ada)
    eve = await auth.register("eve@example.com")
    if tenant == "the same":
        eve = await auth.colleague(ada, "mallory")
    target = {"organization_id": organization}
    member = {**target, "account_id": ada.account_id}
    rim = auth.organizations(eve)

    answers = [
        await refused(call)
        for call in (
            rim.GetOrganization(pb.GetOrganizationRequest(**target)),
            rim.UpdateOrganization(pb.UpdateOrganizationRequest(**target, name="Mine")),
            rim.DeleteOrganization(pb.DeleteOrganizationRequest(**target)),
            rim.ListOrganizationMembers(pb.ListOrganizationMembersRequest(**target)),
            rim.AddOrganizationMember(
                pb.AddOrganizationMemberRequest(**target, account_id=eve.account_id)
            ),
            rim.SetOrganizationMemberRole(
                pb.SetOrganizationMemberRoleRequest(**member, role=MEMBER)  # type: ignore[arg-type]
            ),
            rim.RemoveOrganizationMember(pb.RemoveOrganizationMemberRequest(**member)),
            rim.GetOrganization(pb.GetOrganizationRequest(organization_id="org_none")),
        )
    ]

    assert set(answers) == {"ORGANIZATION_NOT_FOUND"}
    assert await names(auth, eve) == []
    assert await members(auth, ada, organization) == [("ada", ADMIN)]


async def test_a_member_sees_it_and_changes_nothing_but_that_he_leaves(auth: Auth) -> None:
    ada = await auth.register()
    bob = await auth.colleague(ada, "bob")
    organization = await made(auth, ada)
    await add(auth, ada, organization, bob)
    target = {"organization_id": organization}
    rim = auth.organizations(bob)

    assert (await rim.GetOrganization(pb.GetOrganizationRequest(**target))).member_count == 2
    for call in (
        rim.UpdateOrganization(pb.UpdateOrganizationRequest(**target, name="Bob's")),
        rim.DeleteOrganization(pb.DeleteOrganizationRequest(**target)),
        rim.AddOrganizationMember(
            pb.AddOrganizationMemberRequest(**target, account_id=bob.account_id)
        ),
        rim.SetOrganizationMemberRole(
            pb.SetOrganizationMemberRoleRequest(
                **target,
                account_id=bob.account_id,
                role=ADMIN,  # type: ignore[arg-type]
            )
        ),
        rim.RemoveOrganizationMember(
            pb.RemoveOrganizationMemberRequest(**target, account_id=ada.account_id)
        ),
    ):
        assert await refused(call) == "NOT_ITS_ADMIN"
    await rim.RemoveOrganizationMember(
        pb.RemoveOrganizationMemberRequest(**target, account_id=bob.account_id)
    )
    assert await members(auth, ada, organization) == [("ada", ADMIN)]


async def test_an_admin_of_the_tenant_changes_what_he_is_no_member_of(auth: Auth) -> None:
    ada = await auth.register()
    bob = await auth.colleague(ada, "bob")
    organization = await made(auth, bob)

    changed = await auth.organizations(ada).UpdateOrganization(
        pb.UpdateOrganizationRequest(organization_id=organization, name="Renamed", description="D")
    )
    cleared = await auth.organizations(bob).UpdateOrganization(
        pb.UpdateOrganizationRequest(organization_id=organization, description="")
    )

    assert (changed.name, changed.description, changed.member_count) == ("Renamed", "D", 1)
    assert (cleared.name, cleared.HasField("description")) == ("Renamed", False)
    nothing = pb.UpdateOrganizationRequest(organization_id=organization)
    assert await refused(auth.organizations(bob).UpdateOrganization(nothing)) == "NOTHING_TO_CHANGE"


async def test_only_accounts_of_the_tenant_can_be_taken_in(auth: Auth) -> None:
    ada = await auth.register()
    eve = await auth.register("eve@example.com")
    organization = await made(auth, ada)

    assert await refused(add(auth, ada, organization, eve)) == "ACCOUNT_NOT_FOUND"
    nobody = a_user(tenant_id=ada.tenant_id)
    assert await refused(add(auth, ada, organization, nobody)) == "ACCOUNT_NOT_FOUND"


async def test_who_is_taken_in_by_many_at_once_is_in_it_once(auth: Auth) -> None:
    ada = await auth.register()
    bob = await auth.colleague(ada, "bob")
    organization = await made(auth, ada)

    # Who is entered refers to his account.
    answers = await at_once(
        auth,
        "SELECT FROM account FOR UPDATE",
        *(add(auth, ada, organization, bob) for _ in range(6)),
    )

    assert all(answer == answers[0] for answer in answers)
    assert await members(auth, ada, organization) == [("bob", MEMBER), ("ada", ADMIN)]
    again = await add(auth, ada, organization, bob, ADMIN)
    assert again.role == MEMBER


async def test_of_two_admins_who_would_both_leave_one_stays(auth: Auth) -> None:
    ada = await auth.register()
    bob = await auth.colleague(ada, "bob")
    organization = await made(auth, ada)
    await add(auth, ada, organization, bob, ADMIN)

    async def leave(who: Caller) -> None:
        target = {"organization_id": organization, "account_id": who.account_id}
        request = pb.RemoveOrganizationMemberRequest(**target)
        await auth.organizations(who).RemoveOrganizationMember(request)

    answers = await at_once(auth, "SELECT FROM membership FOR UPDATE", leave(ada), leave(bob))

    assert reasons(answers) == ["LAST_ADMIN"]
    assert [role for _, role in await members(auth, ada, organization)] == [ADMIN]


async def test_the_last_admin_can_be_made_no_member_either(auth: Auth) -> None:
    ada = await auth.register()
    bob = await auth.colleague(ada, "bob")
    organization = await made(auth, ada)
    await add(auth, ada, organization, bob)

    def role(of: Caller, wanted: int) -> Any:
        return auth.organizations(ada).SetOrganizationMemberRole(
            pb.SetOrganizationMemberRoleRequest(
                organization_id=organization,
                account_id=of.account_id,
                role=wanted,  # type: ignore[arg-type]
            )
        )

    assert await refused(role(ada, MEMBER)) == "LAST_ADMIN"
    assert (await role(ada, ADMIN)).role == ADMIN
    assert (await role(bob, ADMIN)).role == ADMIN
    assert (await role(ada, MEMBER)).role == MEMBER
    assert await refused(role(a_user(), ADMIN)) == "MEMBER_NOT_FOUND"


async def test_what_is_deleted_is_gone_with_its_members(auth: Auth) -> None:
    ada = await auth.register()
    organization = await made(auth, ada)
    target = {"organization_id": organization}

    await auth.organizations(ada).DeleteOrganization(pb.DeleteOrganizationRequest(**target))

    gone = auth.organizations(ada).GetOrganization(pb.GetOrganizationRequest(**target))
    assert await refused(gone) == "ORGANIZATION_NOT_FOUND"
    async with auth.db.begin() as tx:
        assert await tx.scalar(select(func.count()).select_from(Membership)) == 0


async def test_a_tenant_has_no_more_of_them_than_it_may(auth: Auth) -> None:
    ada = await auth.register()
    most = BOUNDS.organizations_per_tenant

    answers = await asyncio.gather(
        *(made(auth, ada, f"o{number}") for number in range(most + 3)), return_exceptions=True
    )

    assert reasons(answers) == ["ORGANIZATION_LIMIT_REACHED"] * 3
    assert len(await names(auth, ada)) == most


async def test_one_has_no_more_members_than_it_may(auth: Auth) -> None:
    ada = await auth.register()
    organization = await made(auth, ada)
    most = BOUNDS.members_per_organization
    others = [await auth.colleague(ada, f"other{number}") for number in range(most + 1)]

    answers = await asyncio.gather(
        *(add(auth, ada, organization, other) for other in others), return_exceptions=True
    )

    assert reasons(answers) == ["MEMBER_LIMIT_REACHED"] * 2
    assert len(await members(auth, ada, organization)) == most


async def test_a_viewer_makes_none(auth: Auth) -> None:
    ada = await auth.register()
    viewer = await auth.colleague(ada, "vic", api.ROLE_VIEWER)

    assert await refused(made(auth, viewer)) == "NOT_PERMITTED"


async def test_api_keys_do_not_open_them(auth: Auth) -> None:
    ada = await auth.register()
    key = an_api_key(account_id=ada.account_id, tenant_id=ada.tenant_id)

    assert await refused(names(auth, key)) == "NOT_PERMITTED"


async def test_a_field_that_is_wrong_is_named(auth: Auth) -> None:
    ada = await auth.register()

    for field, value in (("name", ""), ("name", "n" * 101), ("description", "d" * 501)):
        request = pb.CreateOrganizationRequest(**{"name": "Engineering", field: value})
        failure = await failed(auth.organizations(ada).CreateOrganization(request))
        assert {row.field for row in failure.violations} == {field}


async def test_each_change_is_told_to_the_audit(auth: Auth) -> None:
    ada = await auth.register()
    bob = await auth.colleague(ada, "bob")
    organization = await made(auth, ada)
    target = {"organization_id": organization}
    member = {**target, "account_id": bob.account_id}
    rim = auth.organizations(ada)
    await rim.UpdateOrganization(pb.UpdateOrganizationRequest(**target, name="Renamed"))
    await add(auth, ada, organization, bob)
    await add(auth, ada, organization, bob)
    await rim.SetOrganizationMemberRole(
        pb.SetOrganizationMemberRoleRequest(**member, role=ADMIN)  # type: ignore[arg-type]
    )
    await rim.RemoveOrganizationMember(pb.RemoveOrganizationMemberRequest(**member))
    await rim.DeleteOrganization(pb.DeleteOrganizationRequest(**target))

    told = [
        row
        for row in await auth.published(Audited)
        if isinstance(row, Audited) and row.resource_id == organization
    ]

    assert [row.action for row in told] == [
        "organization.create",
        "organization.update",
        "organization.member.add",
        "organization.member.role",
        "organization.member.remove",
        "organization.delete",
    ]
    assert {(row.actor_account_id, row.tenant_id) for row in told} == {
        (ada.account_id, ada.tenant_id)
    }
    assert told[3].details == {"account_id": bob.account_id, "role": "admin"}
