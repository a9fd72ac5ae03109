"""OrganizationService: the organizations of a tenant, and who is in them."""

from typing import Any

from grpc.aio import ServicerContext

from vlinders.auth.v1 import organizations_pb2 as pb
from vlinders.auth.v1.organizations_pb2_grpc import OrganizationServiceServicer
from vlinders_auth import organizations
from vlinders_auth.models import Membership, Organization
from vlinders_auth.organizations import Actor
from vlinders_kit.callers import caller
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database
from vlinders_kit.messages import to_message
from vlinders_kit.paging import paged


class OrganizationService(OrganizationServiceServicer):
    def __init__(self, db: Database, clock: Clock, *, most: int, most_members: int) -> None:
        self.db = db
        self.clock = clock
        self.most = most
        self.most_members = most_members

    async def ListOrganizations(
        self, request: pb.ListOrganizationsRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListOrganizationsResponse:
        name = request.name if request.HasField("name") else None
        mine = organizations.of_member(_actor(), name=name)
        async with self.db.begin() as tx:
            found, page = await paged(
                tx, mine, request.page, by=Organization.id, sorts=organizations.SORTS
            )
        return pb.ListOrganizationsResponse(
            organizations=[to_message(pb.Organization, row) for row in found], page=page
        )

    async def CreateOrganization(
        self, request: pb.CreateOrganizationRequest, context: ServicerContext[Any, Any]
    ) -> pb.CreateOrganizationResponse:
        async with self.db.begin() as tx:
            made = await organizations.create(
                tx,
                _actor(),
                request.name,
                request.description,
                limit=self.most,
                now=self.clock.now(),
            )
        return to_message(pb.CreateOrganizationResponse, made)

    async def GetOrganization(
        self, request: pb.GetOrganizationRequest, context: ServicerContext[Any, Any]
    ) -> pb.Organization:
        async with self.db.begin() as tx:
            found = await organizations.find(tx, _actor(), request.organization_id)
        return to_message(pb.Organization, found)

    async def UpdateOrganization(
        self, request: pb.UpdateOrganizationRequest, context: ServicerContext[Any, Any]
    ) -> pb.Organization:
        async with self.db.begin() as tx:
            changed = await organizations.update(
                tx,
                _actor(),
                request.organization_id,
                name=request.name if request.HasField("name") else None,
                description=request.description if request.HasField("description") else None,
                now=self.clock.now(),
            )
        return to_message(pb.Organization, changed)

    async def DeleteOrganization(
        self, request: pb.DeleteOrganizationRequest, context: ServicerContext[Any, Any]
    ) -> pb.DeleteOrganizationResponse:
        async with self.db.begin() as tx:
            await organizations.delete(tx, _actor(), request.organization_id, now=self.clock.now())
        return pb.DeleteOrganizationResponse()

    async def ListOrganizationMembers(
        self, request: pb.ListOrganizationMembersRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListOrganizationMembersResponse:
        async with self.db.begin() as tx:
            members = await organizations.members_of(tx, _actor(), request.organization_id)
            found, page = await paged(tx, members, request.page, by=Membership.id)
        return pb.ListOrganizationMembersResponse(
            members=[_shown(member) for member in found], page=page
        )

    async def AddOrganizationMember(
        self, request: pb.AddOrganizationMemberRequest, context: ServicerContext[Any, Any]
    ) -> pb.OrganizationMember:
        async with self.db.begin() as tx:
            member = await organizations.add_member(
                tx,
                _actor(),
                request.organization_id,
                request.account_id,
                request.role,
                limit=self.most_members,
                now=self.clock.now(),
            )
        return _shown(member)

    async def SetOrganizationMemberRole(
        self, request: pb.SetOrganizationMemberRoleRequest, context: ServicerContext[Any, Any]
    ) -> pb.OrganizationMember:
        async with self.db.begin() as tx:
            member = await organizations.set_member_role(
                tx,
                _actor(),
                request.organization_id,
                request.account_id,
                request.role,
                now=self.clock.now(),
            )
        return _shown(member)

    async def RemoveOrganizationMember(
        self, request: pb.RemoveOrganizationMemberRequest, context: ServicerContext[Any, Any]
    ) -> pb.RemoveOrganizationMemberResponse:
        async with self.db.begin() as tx:
            await organizations.remove_member(
                tx,
                _actor(),
                request.organization_id,
                request.account_id,
                now=self.clock.now(),
            )
        return pb.RemoveOrganizationMemberResponse()


def _actor() -> Actor:
    who = caller()
    return Actor(who.account_id, who.tenant_id, max(who.roles))


def _shown(member: Membership) -> pb.OrganizationMember:
    account = member.account
    return to_message(
        pb.OrganizationMember, member, email=account.email, full_name=account.full_name
    )
