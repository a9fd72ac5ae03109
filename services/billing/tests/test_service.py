"""Over a real channel: who may call, what is answered, how credit is recalled."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import pytest

from vlinders.billing.v1 import credit_pb2 as credit
from vlinders.billing.v1 import ledger_pb2 as ledger
from vlinders.billing.v1 import prices_pb2 as prices
from vlinders.billing.v1 import usage_pb2 as usage
from vlinders.billing.v1.credit_pb2_grpc import (
    CreditServiceStub,
    add_CreditServiceServicer_to_server,
)
from vlinders.billing.v1.ledger_pb2_grpc import (
    LedgerServiceStub,
    add_LedgerServiceServicer_to_server,
)
from vlinders.billing.v1.prices_pb2_grpc import PriceServiceStub, add_PriceServiceServicer_to_server
from vlinders.billing.v1.usage_pb2_grpc import UsageServiceStub, add_UsageServiceServicer_to_server
from vlinders_billing.recalls import Recalls
from vlinders_billing.service import CreditService, LedgerService, PriceService, UsageService
from vlinders_billing.settings import BillingSettings
from vlinders_kit.db import Database
from vlinders_kit.errors import failure_of
from vlinders_kit.ids import new_id
from vlinders_kit.testing import Served, a_part, a_user, an_api_key, served

OPERATOR = 5


def settings(url: str, **over: Any) -> BillingSettings:
    usual = {"port": 1, "caller_key": "00" * 32, "database_url": url, "bus": "memory:"}
    return BillingSettings(**{**usual, **over})


@asynccontextmanager
async def replica(db: Database, **over: Any) -> AsyncIterator[Served]:
    """A billing replica on the database."""
    options = settings(db.url, **over)
    told = Recalls(db.url)
    listening = asyncio.create_task(told.run())
    await told.listening.wait()
    package = "vlinders.billing.v1"
    rim = (
        (
            f"{package}.CreditService",
            add_CreditServiceServicer_to_server,
            CreditService(db, told, options),
        ),
        (
            f"{package}.LedgerService",
            add_LedgerServiceServicer_to_server,
            LedgerService(db, options),
        ),
        (f"{package}.PriceService", add_PriceServiceServicer_to_server, PriceService(db)),
        (f"{package}.UsageService", add_UsageServiceServicer_to_server, UsageService(db)),
    )
    try:
        async with served("vlinders.billing", *rim) as running:
            yield running
            await told.close()
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@pytest.fixture
async def billing(bank: Any) -> AsyncIterator[Served]:
    async with replica(bank.db) as running:
        yield running


def an_ask(tenant_id: str, least: int, wanted: int = 0, **over: Any) -> credit.AcquireLeaseRequest:
    usual = {
        "lease_id": new_id("lease"),
        "tenant_id": tenant_id,
        "holder": "inf_1",
        "least_nanos": least,
        "wanted_nanos": wanted or least,
    }
    return credit.AcquireLeaseRequest(**{**usual, **over})


@dataclass
class Holder:
    """A replica of inference: requests of one cost, admitted from one lease after the other."""

    name: str
    stub: CreditServiceStub
    tenant_id: str
    cost: int
    lease_id: str = ""
    idle: int = 0
    admitted: int = 0
    asking: asyncio.Task[bool] | None = None

    async def admit(self) -> bool:
        """Admits one request. All that wait at a time share one request for credit."""
        while self.idle < self.cost:
            if self.asking is None:
                self.asking = asyncio.create_task(self.ask())
            if not await self.asking:
                return False
        self.idle -= self.cost
        self.admitted += 1
        return True

    async def ask(self) -> bool:
        await self.give_back()  # what is too little for a request, and another may add to
        ask = an_ask(self.tenant_id, self.cost, self.cost * 30, holder=self.name)
        try:
            lease = await self.stub.AcquireLease(ask)
        except grpc.aio.AioRpcError as error:
            if failure_of(error).reason != "INSUFFICIENT_CREDIT":
                raise
            return False
        finally:
            self.asking = None
        self.lease_id, self.idle = lease.lease_id, lease.granted_nanos
        return True

    async def give_back(self) -> None:
        back, self.idle = self.idle, 0
        if back:
            returned = credit.ReturnCreditRequest.Return(
                return_id=new_id("return"), lease_id=self.lease_id, nanos=back
            )
            request = credit.ReturnCreditRequest(holder=self.name, returns=[returned])
            await self.stub.ReturnCredit(request)

    async def watch(self) -> None:
        async for recall in self.stub.WatchRecalls(credit.WatchRecallsRequest(holder=self.name)):
            assert recall.tenant_id == self.tenant_id
            await self.give_back()


@asynccontextmanager
async def watching(*holders: Holder) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(holder.watch()) for holder in holders]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_balance_worth_k_calls_admits_exactly_k_of_200_over_two_holders(bank: Any) -> None:
    await bank.fund("ten_1", 40 * 7 + 6)
    async with replica(bank.db) as one, replica(bank.db) as two:
        stubs = [CreditServiceStub(part.channel(a_part("inference"))) for part in (one, two)]
        holders = [Holder(f"inf_{n}", stub, "ten_1", cost=7) for n, stub in enumerate(stubs)]
        async with watching(*holders):
            admitted = await asyncio.gather(*(holders[n % 2].admit() for n in range(200)))

    assert sum(admitted) == sum(holder.admitted for holder in holders) == 40
    assert (await bank.wallet("ten_1")).available_nanos < 7
    assert (await bank.audit()).findings == []


async def test_idle_money_of_another_holder_is_recalled_through_another_replica(bank: Any) -> None:
    await bank.fund("ten_1", 100)
    async with replica(bank.db) as one, replica(bank.db) as two:
        hoarder = Holder("inf_1", CreditServiceStub(one.channel(a_part("inference"))), "ten_1", 10)
        assert await hoarder.admit()
        assert hoarder.idle == 90
        stub = CreditServiceStub(two.channel(a_part("inference")))
        lease = None
        async with watching(hoarder):
            while lease is None:  # until its WatchRecalls has begun, the hoarder hears nothing
                with contextlib.suppress(grpc.aio.AioRpcError):
                    lease = await stub.AcquireLease(an_ask("ten_1", 80, holder="inf_2"))

    assert (lease.granted_nanos, hoarder.idle) == (80, 0)


async def test_a_holder_that_does_not_answer_is_not_waited_for_long(bank: Any) -> None:
    await bank.fund("ten_1", 100)
    await bank.lend("ten_1", 90, holder="dead")
    async with replica(bank.db, recall_wait=timedelta(milliseconds=50)) as billing:
        stub = CreditServiceStub(billing.channel(a_part("inference")))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.AcquireLease(an_ask("ten_1", 11))

    failure = failure_of(refused.value)
    assert failure.status is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.reason == "INSUFFICIENT_CREDIT"
    assert failure.facts == {"available_nanos": "10", "needed_nanos": "11"}


async def test_what_nobody_could_return_is_refused_at_once(bank: Any) -> None:
    await bank.fund("ten_1", 100)
    async with replica(bank.db, recall_wait=timedelta(hours=1)) as billing:
        stub = CreditServiceStub(billing.channel(a_part("inference")))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.AcquireLease(an_ask("ten_1", 101))

    assert failure_of(refused.value).reason == "INSUFFICIENT_CREDIT"


async def test_the_first_request_of_a_new_tenant_opens_its_wallet_with_the_grant(
    bank: Any,
) -> None:
    async with replica(bank.db, signup_grant="0.000000100") as billing:
        stub = CreditServiceStub(billing.channel(a_part("inference")))
        asks = [an_ask("ten_new", 10, holder=f"inf_{n}") for n in range(12)]
        leases = await asyncio.gather(*map(stub.AcquireLease, asks), return_exceptions=True)

    granted = [lease for lease in leases if isinstance(lease, credit.Lease)]
    assert len(granted) == 10
    assert (await bank.wallet("ten_new")).balance_nanos == 100
    assert (await bank.audit()).findings == []


async def test_a_lease_is_renewed_and_returned_over_the_wire(bank: Any, billing: Served) -> None:
    await bank.fund("ten_1", 100)
    stub = CreditServiceStub(billing.channel(a_part("inference")))

    lease = await stub.AcquireLease(an_ask("ten_1", 10, 60))
    renewed = await stub.RenewLeases(
        credit.RenewLeasesRequest(holder="inf_1", lease_ids=[lease.lease_id, "lease_0"])
    )
    returned = credit.ReturnCreditRequest.Return(
        return_id="return_1", lease_id=lease.lease_id, nanos=60, close=True
    )
    await stub.ReturnCredit(credit.ReturnCreditRequest(holder="inf_1", returns=[returned]))

    assert (lease.granted_nanos, lease.lifetime.seconds, renewed.lifetime.seconds) == (60, 60, 60)
    assert list(renewed.gone_lease_ids) == ["lease_0"]
    assert (await bank.wallet("ten_1")).available_nanos == 100


async def test_a_return_of_less_than_nothing_is_refused(bank: Any, billing: Served) -> None:
    stub = CreditServiceStub(billing.channel(a_part("inference")))
    returned = credit.ReturnCreditRequest.Return(return_id="r", lease_id="l", nanos=-1)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ReturnCredit(credit.ReturnCreditRequest(holder="inf_1", returns=[returned]))

    assert failure_of(refused.value).violations[0].field == "returns[0].nanos"


async def test_a_tenant_sees_its_wallet_and_what_moved_through_it(
    bank: Any, billing: Served
) -> None:
    await bank.fund("ten_1", 1_000)
    await bank.lend("ten_1", 500, id="l")
    await bank.record(bank.usage("ten_1", "l", 30))
    mine = LedgerServiceStub(billing.channel(an_api_key(tenant_id="ten_1")))

    wallet = await mine.GetMyWallet(ledger.GetMyWalletRequest())
    listed = await mine.ListTransfers(ledger.ListTransfersRequest())

    assert (wallet.tenant_id, wallet.currency) == ("ten_1", "CNY")
    assert (wallet.balance_nanos, wallet.held_nanos, wallet.available_nanos) == (970, 470, 500)
    rows = [(row.kind, row.amount_nanos, row.balance_nanos) for row in listed.transfers]
    assert rows == [("usage", -30, 970), ("gift", 1_000, 1_000)]


async def test_a_tenant_without_a_wallet_gets_one_when_it_looks(billing: Served) -> None:
    mine = LedgerServiceStub(billing.channel(a_user()))

    wallets = await asyncio.gather(
        *(mine.GetMyWallet(ledger.GetMyWalletRequest()) for _ in range(5))
    )

    assert {wallet.balance_nanos for wallet in wallets} == {10 * 10**9}


async def test_transfers_come_in_pages(bank: Any, billing: Served) -> None:
    for nanos in range(1, 6):
        await bank.fund("ten_1", nanos)
    mine = LedgerServiceStub(billing.channel(a_user(tenant_id="ten_1")))

    amounts: list[int] = []
    request = ledger.ListTransfersRequest()
    request.page.size = 2
    while True:
        listed = await mine.ListTransfers(request)
        amounts += [row.amount_nanos for row in listed.transfers]
        if not listed.page.next_token:
            break
        request.page.token = listed.page.next_token

    assert amounts == [5, 4, 3, 2, 1]


async def test_nobody_sees_another_tenants_money_or_usage(bank: Any, billing: Served) -> None:
    await bank.fund("ten_1", 1_000)
    await bank.record(bank.usage("ten_1", "", 30, request_id="req_1"))
    channel = billing.channel(a_user(tenant_id="ten_2"))

    moved = await LedgerServiceStub(channel).ListTransfers(ledger.ListTransfersRequest())
    used = await UsageServiceStub(channel).ListUsageRecords(
        usage.ListUsageRecordsRequest(request_id="req_1")
    )

    assert not moved.transfers
    assert not used.records


async def test_a_tenant_sees_what_each_request_cost(bank: Any, billing: Served) -> None:
    await bank.fund("ten_1", 1_000)
    await bank.lend("ten_1", 500, id="l")
    for n in (1, 2):
        await bank.record(bank.usage("ten_1", "l", 30 * n, request_id=f"req_{n}"))
    mine = UsageServiceStub(billing.channel(a_user(tenant_id="ten_1")))

    listed = await mine.ListUsageRecords(usage.ListUsageRecordsRequest())
    one = await mine.ListUsageRecords(usage.ListUsageRecordsRequest(request_id="req_1"))

    assert [row.request_id for row in listed.records] == ["req_2", "req_1"]
    [row] = one.records
    assert (row.output_tokens, row.charged_nanos, row.outcome) == (30, 30, "completed")
    assert (row.price_version, row.transfer_id) == (bank.version, "usage:req_1")


async def test_only_an_operator_audits(bank: Any, billing: Served) -> None:
    await bank.fund("ten_1", 1_000)
    operator = LedgerServiceStub(billing.channel(a_user(roles=[OPERATOR])))

    found = await operator.AuditLedger(ledger.AuditLedgerRequest())

    assert (found.sound, found.accounts, found.postings, found.sum_nanos) == (True, 4, 2, 0)
    assert len(found.digest) == 64
    for caller in (a_user(), an_api_key(roles=[OPERATOR]), a_part("inference")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await LedgerServiceStub(billing.channel(caller)).AuditLedger(
                ledger.AuditLedgerRequest()
            )
        assert failure_of(refused.value).reason in ("NOT_PERMITTED", "CREDENTIAL_REQUIRED")


@pytest.mark.parametrize(
    "caller", [a_user(roles=[OPERATOR]), an_api_key(), a_part("gateway")], ids=["user", "key", "gw"]
)
async def test_only_inference_is_lent_to(billing: Served, caller: Any) -> None:
    stub = CreditServiceStub(billing.channel(caller))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.AcquireLease(an_ask("ten_1", 1))

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_prices_are_put_by_inference_and_listed(bank: Any, billing: Served) -> None:
    stub = PriceServiceStub(billing.channel(a_part("inference")))
    wanted = prices.Price(model="m", input_nanos=3, cached_input_nanos=1, output_nanos=7)

    put = await stub.PutPrices(prices.PutPricesRequest(prices=[wanted]))
    listed = await stub.ListPrices(prices.ListPricesRequest())

    assert put.prices[0].version.startswith("price_")
    assert {row.model: row.version for row in listed.prices} == {
        "m": put.prices[0].version,
        "tiny": bank.version,
    }


async def test_without_the_database_money_is_unavailable_at_once(bank: Any) -> None:
    async with replica(bank.db) as billing:
        stub = CreditServiceStub(billing.channel(a_part("inference")))
        gone = Database("postgresql://postgres@127.0.0.1:1/none")
        dead = CreditService(gone, Recalls(gone.url), settings(gone.url))
        rim = ("vlinders.billing.v1.CreditService", add_CreditServiceServicer_to_server, dead)
        async with served("vlinders.billing", rim) as running:
            stub = CreditServiceStub(running.channel(a_part("inference")))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.AcquireLease(an_ask("ten_1", 1), timeout=5)
        await gone.close()

    failure = failure_of(refused.value)
    assert failure.reason == "DATABASE_UNAVAILABLE"
    assert failure.retry_after is not None
