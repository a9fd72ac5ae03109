"""AccountAdminService: everybody's accounts, for those who run the platform."""

from typing import Any

from grpc.aio import ServicerContext

from vlinders.auth.v1 import accounts_pb2 as pb
from vlinders.auth.v1.accounts_pb2_grpc import AccountAdminServiceServicer
from vlinders_auth import administration
from vlinders_auth.administration import Change, Filters
from vlinders_auth.models import Account
from vlinders_auth.service.accounts import shown
from vlinders_kit.callers import caller
from vlinders_kit.clock import Clock
from vlinders_kit.db import Database, Tx
from vlinders_kit.messages import said
from vlinders_kit.paging import paged


class AccountAdminService(AccountAdminServiceServicer):
    def __init__(self, db: Database, clock: Clock) -> None:
        self.db = db
        self.clock = clock

    async def ListAccounts(
        self, request: pb.ListAccountsRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListAccountsResponse:
        wanted = Filters(**said(request, "status", "active", "operator", "search"))
        query = administration.listed(wanted)
        async with self.db.begin() as tx:
            found, page = await paged(
                tx, query, request.page, by=Account.id, sorts=administration.SORTS
            )
        return pb.ListAccountsResponse(accounts=map(shown, found), page=page)

    async def SetAccountStatus(
        self, request: pb.SetAccountStatusRequest, context: ServicerContext[Any, Any]
    ) -> pb.Account:
        async with self.db.begin() as tx:
            account = await administration.find(
                tx, account_id=request.account_id, number=request.account_number
            )
            return await self._changed(
                tx, account, Change(status=request.status, reason=request.reason)
            )

    async def UpdateAccount(
        self, request: pb.UpdateAccountRequest, context: ServicerContext[Any, Any]
    ) -> pb.Account:
        async with self.db.begin() as tx:
            account = await administration.find(tx, account_id=request.account_id)
            wanted = Change(**said(request, "active", "operator", "reason"))
            return await self._changed(tx, account, wanted)

    async def _changed(self, tx: Tx, account: Account, wanted: Change) -> pb.Account:
        changed = await administration.change(
            tx, account, wanted, by_account_id=caller().account_id, now=self.clock.now()
        )
        return shown(changed)
