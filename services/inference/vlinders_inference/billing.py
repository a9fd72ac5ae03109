"""Billing, as a peer: credit is lent and prices are kept there."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from vlinders.billing.v1 import credit_pb2 as credit
from vlinders.billing.v1 import prices_pb2 as prices
from vlinders.billing.v1.credit_pb2_grpc import CreditServiceStub
from vlinders.billing.v1.prices_pb2_grpc import PriceServiceStub
from vlinders_inference.admission import Answer, Granted, Recall, Return
from vlinders_inference.errors import CreditUnavailable, InsufficientCredit
from vlinders_kit import logs
from vlinders_kit.errors import failure_of

ACQUIRE_SECONDS = 3.0
"""Deadline of a lease: billing may wait a second for credit that it recalls."""

CALL_SECONDS = 2.0
"""Deadline of everything else."""

_TRANSIENT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)

log = logs.get(__name__)


class Billing:
    """The lender of this replica, which billing knows as `holder`; and the keeper of prices."""

    def __init__(self, channel: grpc.aio.Channel, holder: str) -> None:
        self._credit: Any = CreditServiceStub(channel)  # type: ignore[no-untyped-call]
        self._prices: Any = PriceServiceStub(channel)  # type: ignore[no-untyped-call]
        self._holder = holder

    async def acquire(self, lease_id: str, tenant_id: str, *, least: int, wanted: int) -> Granted:
        request = credit.AcquireLeaseRequest(
            lease_id=lease_id,
            tenant_id=tenant_id,
            holder=self._holder,
            least_nanos=least,
            wanted_nanos=wanted,
        )
        try:
            lease = await self._acquire(request)
        except grpc.aio.AioRpcError as error:
            if failure_of(error).reason == InsufficientCredit.reason:
                raise InsufficientCredit(needed_nanos=least) from None
            raise _unavailable("AcquireLease", error) from None
        return Granted(lease.granted_nanos, lease.lifetime.ToTimedelta().total_seconds())

    async def _acquire(self, request: credit.AcquireLeaseRequest) -> credit.Lease:
        """Asks twice when the first was lost on its way: the same id is the same lease."""
        for last in (False, True):
            try:
                lease: credit.Lease = await self._credit.AcquireLease(
                    request, timeout=ACQUIRE_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                if last or error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            else:
                return lease
        raise AssertionError("answered, or raised")

    async def renew(self, lease_ids: Sequence[str]) -> tuple[float, Sequence[str]]:
        request = credit.RenewLeasesRequest(holder=self._holder, lease_ids=lease_ids)
        try:
            answer = await self._credit.RenewLeases(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _unavailable("RenewLeases", error) from None
        return answer.lifetime.ToTimedelta().total_seconds(), list(answer.gone_lease_ids)

    async def give_back(self, returns: Sequence[Return], answers: Sequence[Answer]) -> None:
        rows = [
            credit.ReturnCreditRequest.Return(
                return_id=row.return_id, lease_id=row.lease_id, nanos=row.nanos, close=row.close
            )
            for row in returns
        ]
        told = [
            credit.ReturnCreditRequest.Answer(recall_id=row.recall_id, busy_lease_ids=row.busy)
            for row in answers
        ]
        request = credit.ReturnCreditRequest(holder=self._holder, returns=rows, answers=told)
        try:
            await self._credit.ReturnCredit(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() in _TRANSIENT:
                raise _unavailable("ReturnCredit", error) from None
            # It will not be taken next time either; the leases' end brings the credit back.
            log.error("credit_not_returned", code=error.code().name, returns=len(rows))

    async def recalls(self) -> AsyncIterator[Recall]:
        try:
            call = self._credit.WatchRecalls(credit.WatchRecallsRequest(holder=self._holder))
            async for recall in call:
                yield Recall(recall.tenant_id, recall.recall_ids)
        except grpc.aio.AioRpcError as error:
            raise _unavailable("WatchRecalls", error) from None

    async def put_prices(self, wanted: Sequence[prices.Price]) -> None:
        """Puts prices in force. Raises CreditUnavailable."""
        try:
            request = prices.PutPricesRequest(prices=wanted)
            await self._prices.PutPrices(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _unavailable("PutPrices", error) from None

    async def list_prices(self) -> Sequence[prices.Price]:
        """The prices in force. Raises CreditUnavailable."""
        try:
            answer = await self._prices.ListPrices(prices.ListPricesRequest(), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _unavailable("ListPrices", error) from None
        return list(answer.prices)


def _unavailable(call: str, error: grpc.aio.AioRpcError) -> CreditUnavailable:
    if error.code() not in _TRANSIENT:
        log.error("billing_refused", call=call, code=error.code().name, text=error.details())
    return CreditUnavailable()
