"""MemberService: who belongs to a tenant."""

from typing import Any

from grpc.aio import ServicerContext

from vlinders.auth.v1 import members_pb2 as pb
from vlinders.auth.v1.accounts_pb2 import Account as ShownAccount
from vlinders.auth.v1.accounts_pb2 import RegisterResponse
from vlinders.auth.v1.members_pb2_grpc import MemberServiceServicer
from vlinders_auth import members
from vlinders_auth.mails import Mailing
from vlinders_auth.members import Wanted
from vlinders_auth.models import Account
from vlinders_auth.passwords import Passwords
from vlinders_auth.service.accounts import shown
from vlinders_kit.callers import caller
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database
from vlinders_kit.messages import to_message
from vlinders_kit.paging import paged
from vlinders_kit.sealing import Sealer


class MemberService(MemberServiceServicer):
    def __init__(
        self,
        db: Database,
        passwords: Passwords,
        mailing: Mailing,
        sealer: Sealer,
        clock: Clock,
        *,
        most_invitations: int,
    ) -> None:
        self.db = db
        self.passwords = passwords
        self.mailing = mailing
        self.sealer = sealer
        self.clock = clock
        self.most_invitations = most_invitations

    async def ListMembers(
        self, request: pb.ListMembersRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListMembersResponse:
        everybody = members.of_tenant(caller().tenant_id)
        async with self.db.begin() as tx:
            found, page = await paged(tx, everybody, request.page, by=Account.id)
        return pb.ListMembersResponse(members=[shown(row) for row in found], page=page)

    async def InviteMember(
        self, request: pb.InviteMemberRequest, context: ServicerContext[Any, Any]
    ) -> pb.Invitation:
        async with self.db.begin() as tx:
            invitation = await members.invite(
                tx,
                self.mailing,
                caller().account_id,
                Wanted(request.email, request.role),
                limit=self.most_invitations,
                now=self.clock.now(),
            )
        return to_message(pb.Invitation, invitation)

    async def AcceptInvitation(
        self, request: pb.AcceptInvitationRequest, context: ServicerContext[Any, Any]
    ) -> RegisterResponse:
        with self.passwords.turn():
            async with self.db.begin() as tx:
                now = self.clock.now()
                await members.require_invited(tx, self.sealer, request.token, now=now)
            password_hash = await self.passwords.hash(request.password)
            async with self.db.begin() as tx:
                account = await members.accept(
                    tx,
                    self.sealer,
                    request.token,
                    password_hash=password_hash,
                    full_name=request.full_name,
                    now=self.clock.now(),
                )
        return to_message(RegisterResponse, account, user_id=account.id)

    async def SetMemberRole(
        self, request: pb.SetMemberRoleRequest, context: ServicerContext[Any, Any]
    ) -> ShownAccount:
        async with self.db.begin() as tx:
            member = await members.set_role(
                tx, caller().account_id, request.account_id, request.role, now=self.clock.now()
            )
        return shown(member)
