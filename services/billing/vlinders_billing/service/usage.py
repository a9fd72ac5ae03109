"""The RPC that shows usage."""

from typing import Any

from grpc.aio import ServicerContext

from vlinders.billing.v1 import usage_pb2 as pb
from vlinders.billing.v1.usage_pb2_grpc import UsageServiceServicer
from vlinders_billing import usage
from vlinders_billing.models import UsageRecord
from vlinders_kit import trace_ids
from vlinders_kit.callers import caller
from vlinders_kit.db import Database
from vlinders_kit.messages import to_message
from vlinders_kit.paging import paged


class UsageService(UsageServiceServicer):
    def __init__(self, db: Database) -> None:
        self.db = db

    async def ListUsageRecords(
        self, request: pb.ListUsageRecordsRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListUsageRecordsResponse:
        request_id = request.request_id if request.HasField("request_id") else None
        trace_id = request.trace_id if request.HasField("trace_id") else None
        mine = usage.of_tenant(caller().tenant_id, request_id, trace_id)
        async with self.db.begin() as tx:
            records, page = await paged(tx, mine, request.page, by=UsageRecord.request_id)
        return pb.ListUsageRecordsResponse(records=list(map(_shown, records)), page=page)

    async def GetUsageTotals(
        self, request: pb.GetUsageTotalsRequest, context: ServicerContext[Any, Any]
    ) -> pb.GetUsageTotalsResponse:
        async with self.db.begin() as tx:
            rows = (await tx.execute(usage.totals(request.tenant_ids))).all()
        return pb.GetUsageTotalsResponse(
            totals=[
                pb.UsageTotals(
                    tenant_id=row.tenant_id,
                    requests=int(row.requests),
                    tokens=int(row.tokens),
                    charged_nanos=int(row.charged_nanos),
                )
                for row in rows
            ]
        )


def _shown(record: UsageRecord) -> pb.UsageRecord:
    trace_id = record.trace_id or trace_ids.trace_of(record.request_id)
    return to_message(pb.UsageRecord, record, trace_id=trace_id)
