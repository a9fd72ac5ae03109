"""Members of a tenant: asked to join, let in, and given what the giver has."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1 import accounts_pb2 as accounts_pb
from vlinders.auth.v1 import members_pb2 as pb
from vlinders.auth.v1.events_pb2 import AccountRegistered, Audited, RolesChanged
from vlinders_auth.links import LIFETIMES, Purpose
from vlinders_auth.models import Account
from vlinders_kit.testing import an_api_key

from .conftest import (
    BOUNDS,
    PASSWORD,
    Auth,
    at_once,
    reasons,
    refused,
    text_of,
    token_in,
)

OWNER, ADMIN = api.ROLE_OWNER, api.ROLE_ADMIN
DEVELOPER, VIEWER = api.ROLE_DEVELOPER, api.ROLE_VIEWER
ROLES = (OWNER, ADMIN, DEVELOPER, VIEWER)


async def invite(
    auth: Auth, by: Caller, email: str = "bob@example.com", role: api.Role = DEVELOPER
) -> pb.Invitation:
    request = pb.InviteMemberRequest(email=email, role=role)
    answer: pb.Invitation = await auth.members(by).InviteMember(request)
    return answer


async def accept(auth: Auth, token: str) -> accounts_pb.RegisterResponse:
    request = pb.AcceptInvitationRequest(token=token, full_name="Bob", password=PASSWORD)
    answer: accounts_pb.RegisterResponse = await auth.members().AcceptInvitation(request)
    return answer


async def token_for(auth: Auth, by: Caller, **over: Any) -> str:
    await invite(auth, by, **over)
    [mail] = await auth.mails()
    return token_in(mail)


async def set_role(auth: Auth, by: Caller, who: Caller, role: api.Role) -> accounts_pb.Account:
    request = pb.SetMemberRoleRequest(account_id=who.account_id, role=role)
    answer: accounts_pb.Account = await auth.members(by).SetMemberRole(request)
    return answer


async def kept(auth: Auth, who: Caller) -> Account:
    async with auth.db.begin() as tx:
        return await tx.get_one(Account, who.account_id)


async def set_account(auth: Auth, who: Caller, **values: Any) -> None:
    async with auth.db.begin() as tx:
        await tx.execute(update(Account).where(Account.id == who.account_id).values(**values))


async def test_who_accepts_has_an_account_in_the_tenant_with_a_verified_email(auth: Auth) -> None:
    ada = await auth.register(full_name="Ada", tenant_name="Engines")
    invited = await invite(auth, ada, "Bob@Example.com", ADMIN)
    [mail] = await auth.mails()

    assert (invited.email, invited.role) == ("bob@example.com", ADMIN)
    assert invited.id.startswith("invitation_")
    assert mail["To"] == "bob@example.com"
    assert "Ada invites you to join Engines." in text_of(mail)

    made = await accept(auth, token_in(mail))

    wanted = accounts_pb.RegisterResponse(
        user_id=made.user_id,
        email="bob@example.com",
        tenant_id=ada.tenant_id,
        email_verified=True,
    )
    assert made == wanted
    await auth.login("bob@example.com")
    registered = AccountRegistered(account_id=made.user_id, tenant_id=ada.tenant_id)
    assert registered in await auth.published(AccountRegistered)


async def test_the_list_has_everybody_of_the_tenant_and_nobody_else(auth: Auth) -> None:
    ada = await auth.register()
    await auth.register("eve@example.com")
    bob = await auth.colleague(ada, "bob", VIEWER)

    told = await auth.members(bob).ListMembers(pb.ListMembersRequest())

    assert [row.email for row in told.members] == ["bob@example.com", "ada@example.com"]
    assert list(told.members[1].roles) == [OWNER, DEVELOPER]


async def test_an_invitation_is_accepted_once(auth: Auth) -> None:
    token = await token_for(auth, await auth.register())

    answers = await asyncio.gather(*(accept(auth, token) for _ in range(4)), return_exceptions=True)

    assert reasons(answers) == ["INVALID_LINK"] * 3


async def test_whom_a_new_link_goes_to_his_old_one_works_no_more(auth: Auth) -> None:
    ada = await auth.register()
    old = await token_for(auth, ada, role=ADMIN)
    new = await token_for(auth, ada, role=VIEWER)

    assert await refused(accept(auth, old)) == "INVALID_LINK"

    made = await accept(auth, new)
    assert list((await kept(auth, Caller(account_id=made.user_id))).roles) == [VIEWER]


async def test_an_invitation_expires(auth: Auth) -> None:
    token = await token_for(auth, await auth.register())
    auth.clock.advance(LIFETIMES[Purpose.ACCEPT_INVITATION])

    assert await refused(accept(auth, token)) == "INVALID_LINK"


@pytest.mark.parametrize("what", ["demoted", "shut out"])
async def test_an_invitation_is_worth_what_its_sender_may_give_by_then(
    auth: Auth, what: str
) -> None:
    ada = await auth.register()
    bob = await auth.colleague(ada, "bob", ADMIN)
    token = await token_for(auth, bob, email="carl@example.com", role=ADMIN)

    if what == "demoted":
        await set_role(auth, ada, bob, DEVELOPER)
    else:
        await set_account(auth, bob, status=accounts_pb.ACCOUNT_STATUS_INACTIVE)

    assert await refused(accept(auth, token)) == "INVALID_LINK"


async def test_who_has_an_account_is_not_invited_nor_let_in_by_an_old_link(auth: Auth) -> None:
    ada = await auth.register()
    await auth.register("eve@example.com")
    assert await refused(invite(auth, ada, "Eve@example.com")) == "EMAIL_TAKEN"
    token = await token_for(auth, ada)
    await auth.register("bob@example.com")

    assert await refused(accept(auth, token)) == "EMAIL_TAKEN"


async def test_a_tenant_asks_no_more_people_than_it_may(auth: Auth) -> None:
    ada = await auth.register()
    most = BOUNDS.invitations_per_tenant
    for number in range(most):
        await invite(auth, ada, f"p{number}@example.com")

    assert await refused(invite(auth, ada)) == "INVITATION_LIMIT_REACHED"
    auth.clock.advance(timedelta(hours=2))
    await invite(auth, ada, "p0@example.com")
    auth.clock.advance(LIFETIMES[Purpose.ACCEPT_INVITATION])
    await invite(auth, ada)


async def test_nobody_invites_to_more_than_he_is(auth: Auth) -> None:
    ada = await auth.register()
    inviters = {role: await auth.colleague(ada, f"i{role}", role) for role in ROLES}

    for by, role, answer in (
        (OWNER, OWNER, None),
        (ADMIN, ADMIN, None),
        (ADMIN, OWNER, "ROLE_NOT_HELD"),
        (DEVELOPER, VIEWER, "NOT_PERMITTED"),
        (VIEWER, VIEWER, "NOT_PERMITTED"),
    ):
        email = f"{by}-{role}@example.com"
        if answer is None:
            assert (await invite(auth, inviters[by], email, role)).role == role
        else:
            assert await refused(invite(auth, inviters[by], email, role)) == answer, (by, role)
    assert {mail["To"] for mail in await auth.mails()} == {"4-4@example.com", "3-3@example.com"}


async def test_nobody_gives_or_takes_a_role_above_his_own(auth: Auth) -> None:
    ada = await auth.register()
    actors = {role: await auth.colleague(ada, f"a{role}", role) for role in ROLES}

    for by, before, after, answer in (
        (OWNER, DEVELOPER, OWNER, None),
        (OWNER, OWNER, VIEWER, None),
        (ADMIN, DEVELOPER, ADMIN, None),
        (ADMIN, ADMIN, VIEWER, None),
        (ADMIN, DEVELOPER, OWNER, "ROLE_NOT_HELD"),
        (ADMIN, OWNER, DEVELOPER, "ROLE_NOT_HELD"),
        (ADMIN, api.ROLE_OPERATOR, DEVELOPER, "ROLE_NOT_HELD"),
        (DEVELOPER, DEVELOPER, VIEWER, "NOT_PERMITTED"),
    ):
        member = await auth.colleague(ada, f"m{by}-{before}-{after}", before)
        told = len(await auth.published(RolesChanged))
        if answer is not None:
            assert await refused(set_role(auth, actors[by], member, after)) == answer
            assert list((await kept(auth, member)).roles) == [before]
            continue
        assert max((await set_role(auth, actors[by], member, after)).roles) == after
        changed = RolesChanged(account_id=member.account_id, tenant_id=ada.tenant_id)
        assert (await auth.published(RolesChanged))[told:] == [changed]


async def test_what_he_was_a_moment_ago_gives_nobody_anything(auth: Auth) -> None:
    ada = await auth.register()
    bob = await auth.colleague(ada, "bob", ADMIN)
    dora = await auth.colleague(ada, "dora")
    await set_role(auth, ada, bob, VIEWER)  # and the gateway has not heard it yet

    assert await refused(set_role(auth, bob, dora, ADMIN)) == "ROLE_NOT_HELD"
    assert await refused(invite(auth, bob, "carl@example.com")) == "ROLE_NOT_HELD"


async def test_a_role_that_he_has_already_changes_nothing(auth: Auth) -> None:
    ada = await auth.register()
    bob = await auth.colleague(ada, "bob")

    await set_role(auth, ada, bob, DEVELOPER)

    assert await auth.published(RolesChanged) == []


async def test_the_last_owner_stays_one(auth: Auth) -> None:
    ada = await auth.register()
    bob = await auth.colleague(ada, "bob", OWNER)
    await set_account(auth, bob, status=accounts_pb.ACCOUNT_STATUS_SUSPENDED)

    assert await refused(set_role(auth, ada, ada, ADMIN)) == "LAST_OWNER"

    await set_account(auth, bob, status=accounts_pb.ACCOUNT_STATUS_ACTIVE)
    assert list((await set_role(auth, ada, ada, ADMIN)).roles) == [ADMIN]


async def test_of_two_owners_who_demote_each_other_at_the_same_time_one_stays(auth: Auth) -> None:
    ada = await auth.register()
    bob = await auth.colleague(ada, "bob", OWNER)

    answers = await at_once(
        auth,
        "SELECT FROM account FOR UPDATE",
        set_role(auth, ada, bob, DEVELOPER),
        set_role(auth, bob, ada, DEVELOPER),
    )

    assert reasons(answers) == ["ROLE_NOT_HELD"]
    owners = [who for who in (ada, bob) if OWNER in (await kept(auth, who)).roles]
    assert len(owners) == 1


async def test_who_runs_the_platform_goes_on_to_whatever_he_is_in_his_tenant(auth: Auth) -> None:
    ada = await auth.register()
    await set_account(auth, ada, roles=[OWNER, DEVELOPER, api.ROLE_OPERATOR])
    await auth.colleague(ada, "bob", OWNER)

    changed = await set_role(auth, ada, ada, ADMIN)

    assert changed.operator
    assert list(changed.roles) == [ADMIN]


async def test_members_of_another_tenant_are_as_those_who_do_not_exist(auth: Auth) -> None:
    ada = await auth.register()
    eve = await auth.register("eve@example.com")

    assert await refused(set_role(auth, ada, eve, VIEWER)) == "ACCOUNT_NOT_FOUND"
    nobody = Caller(account_id="user_none")
    assert await refused(set_role(auth, ada, nobody, VIEWER)) == "ACCOUNT_NOT_FOUND"


async def test_api_keys_invite_nobody(auth: Auth) -> None:
    ada = await auth.register()
    key = an_api_key(account_id=ada.account_id, tenant_id=ada.tenant_id)

    assert await refused(invite(auth, key)) == "NOT_PERMITTED"


async def test_each_change_is_told_to_the_audit(auth: Auth) -> None:
    ada = await auth.register()
    made = await accept(auth, await token_for(auth, ada))
    bob = Caller(account_id=made.user_id)
    await set_role(auth, ada, bob, VIEWER)

    told = [
        (row.action, row.actor_account_id, row.tenant_id)
        for row in await auth.published(Audited)
        if isinstance(row, Audited) and row.action.startswith("member.")
    ]

    assert told == [
        ("member.invite", ada.account_id, ada.tenant_id),
        ("member.join", bob.account_id, ada.tenant_id),
        ("member.role", ada.account_id, ada.tenant_id),
    ]
