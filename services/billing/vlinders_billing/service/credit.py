"""The RPCs of credit leases."""

from collections.abc import AsyncIterator
from typing import Any

from grpc.aio import ServicerContext

from vlinders.billing.v1 import credit_pb2 as pb
from vlinders.billing.v1.credit_pb2_grpc import CreditServiceServicer
from vlinders_billing import leases, recalls
from vlinders_billing.leases import Ask, Return
from vlinders_billing.lending import Lending
from vlinders_billing.recalls import Recalls
from vlinders_billing.settings import BillingSettings
from vlinders_kit.db import Database


class CreditService(CreditServiceServicer):
    def __init__(self, db: Database, told: Recalls, settings: BillingSettings) -> None:
        self.db = db
        self.told = told
        self.lifetime = settings.lease_lifetime
        self.lending = Lending(db, told, settings)

    async def AcquireLease(
        self, request: pb.AcquireLeaseRequest, context: ServicerContext[Any, Any]
    ) -> pb.Lease:
        ask = Ask(
            request.lease_id,
            request.tenant_id,
            request.holder,
            request.least_nanos,
            request.wanted_nanos,
        )
        return pb.Lease(
            lease_id=request.lease_id,
            tenant_id=request.tenant_id,
            granted_nanos=await self.lending.lend(ask),
            lifetime=self.lifetime,
        )

    async def RenewLeases(
        self, request: pb.RenewLeasesRequest, context: ServicerContext[Any, Any]
    ) -> pb.RenewLeasesResponse:
        async with self.db.begin() as tx:
            gone = await leases.renew(tx, request.holder, request.lease_ids, self.lifetime)
        return pb.RenewLeasesResponse(lifetime=self.lifetime, gone_lease_ids=gone)

    async def ReturnCredit(
        self, request: pb.ReturnCreditRequest, context: ServicerContext[Any, Any]
    ) -> pb.ReturnCreditResponse:
        returns = [
            Return(row.return_id, row.lease_id, row.nanos, row.close) for row in request.returns
        ]
        spoken_of = {id for answer in request.answers for id in answer.busy_lease_ids}
        async with self.db.begin() as tx:
            if returns:
                await leases.give_back(tx, request.holder, returns)
            own = await leases.held_by(tx, request.holder, spoken_of) if spoken_of else set()
            for answer in request.answers:
                busy = [id for id in answer.busy_lease_ids if id in own]
                await recalls.tell_answered(tx, answer.recall_id, busy)
        return pb.ReturnCreditResponse()

    async def WatchRecalls(
        self, request: pb.WatchRecallsRequest, context: ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.Recall]:
        async for recall in self.told.watch(request.holder):
            yield pb.Recall(tenant_id=recall.tenant_id, recall_ids=recall.ids)
