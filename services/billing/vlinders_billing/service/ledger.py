"""The RPCs that show wallets and prove the books."""

from typing import Any

from grpc.aio import ServicerContext

from vlinders.billing.v1 import ledger_pb2 as pb
from vlinders.billing.v1.ledger_pb2_grpc import LedgerServiceServicer
from vlinders_billing import audit, wallets
from vlinders_billing.models import Posting
from vlinders_billing.settings import BillingSettings
from vlinders_kit.callers import caller
from vlinders_kit.db import Database
from vlinders_kit.messages import to_message
from vlinders_kit.paging import paged


class LedgerService(LedgerServiceServicer):
    def __init__(self, db: Database, settings: BillingSettings) -> None:
        self.db = db
        self.currency = settings.currency
        self.grants = settings.grants

    async def GetMyWallet(
        self, request: pb.GetMyWalletRequest, context: ServicerContext[Any, Any]
    ) -> pb.Wallet:
        async with self.db.begin() as tx:
            wallet = await wallets.get(tx, caller().tenant_id, self.grants)
        return to_message(pb.Wallet, wallet, currency=self.currency)

    async def GetWallets(
        self, request: pb.GetWalletsRequest, context: ServicerContext[Any, Any]
    ) -> pb.GetWalletsResponse:
        async with self.db.begin() as tx:
            found = await tx.scalars(wallets.of_tenants(request.tenant_ids))
        rows = [to_message(pb.Wallet, wallet, currency=self.currency) for wallet in found]
        return pb.GetWalletsResponse(wallets=rows)

    async def SetWalletBalance(
        self, request: pb.SetWalletBalanceRequest, context: ServicerContext[Any, Any]
    ) -> pb.Wallet:
        tenant_id, id = request.tenant_id, f"adjustment:{caller().request_id}"
        async with self.db.begin() as tx:
            await wallets.set_balance(tx, tenant_id, request.balance_nanos, self.grants, id=id)
            wallet = await wallets.get(tx, tenant_id, self.grants)
            return to_message(pb.Wallet, wallet, currency=self.currency)

    async def ListTransfers(
        self, request: pb.ListTransfersRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListTransfersResponse:
        mine = wallets.postings_of(caller().tenant_id)
        async with self.db.begin() as tx:
            postings, page = await paged(tx, mine, request.page, by=Posting.seq)
        return pb.ListTransfersResponse(
            transfers=[_shown(posting) for posting in postings], page=page
        )

    async def AuditLedger(
        self, request: pb.AuditLedgerRequest, context: ServicerContext[Any, Any]
    ) -> pb.AuditLedgerResponse:
        async with self.db.begin() as tx:
            found = await audit.audit(tx)
        return to_message(pb.AuditLedgerResponse, found)


def _shown(posting: Posting) -> pb.Transfer:
    transfer = posting.transfer
    return to_message(
        pb.Transfer,
        transfer,
        amount_nanos=posting.amount_nanos,
        balance_nanos=posting.balance_nanos,
    )
