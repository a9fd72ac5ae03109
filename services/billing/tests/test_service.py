"""Over a real channel: who may call, and what is answered."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from vlinders.api.v1.options_pb2 import ROLE_OPERATOR
from vlinders.billing.v1 import credit_pb2 as credit
from vlinders.billing.v1 import ledger_pb2 as ledger
from vlinders.billing.v1 import prices_pb2 as prices
from vlinders.billing.v1 import usage_pb2 as usage
from vlinders.billing.v1.credit_pb2_grpc import CreditServiceStub
from vlinders.billing.v1.ledger_pb2_grpc import LedgerServiceStub
from vlinders.billing.v1.prices_pb2_grpc import PriceServiceStub
from vlinders.billing.v1.usage_pb2_grpc import UsageServiceStub
from vlinders_billing.recalls import Recalls
from vlinders_billing.service import services
from vlinders_kit.db import Database
from vlinders_kit.errors import failure_of
from vlinders_kit.testing import Served, a_part, a_user, an_api_key, served


@pytest.fixture
async def billing(bank: Any) -> AsyncIterator[Served]:
    async with bank.replica() as running:
        yield running


async def test_a_lease_is_renewed_and_returned_over_the_wire(bank: Any, billing: Served) -> None:
    await bank.fund("ten_1", 100)
    stub = CreditServiceStub(billing.channel(a_part("inference")))

    lease = await stub.AcquireLease(bank.ask("ten_1", 10, 60))
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


async def test_the_gateway_asks_for_many_tenants_at_once(bank: Any, billing: Served) -> None:
    for tenant in ("ten_1", "ten_2", "ten_3"):
        await bank.fund(tenant, 1_000)
    await bank.lend("ten_1", 500, id="l")
    for n in (1, 2):
        cached = {"input_tokens": 5, "cached_input_tokens": n}
        await bank.record(bank.usage("ten_1", "l", 30, request_id=f"req_{n}", **cached))
    channel = billing.channel(a_part("gateway"))
    named = ["ten_1", "ten_2", "ten_4"]

    wallets = await LedgerServiceStub(channel).GetWallets(
        ledger.GetWalletsRequest(tenant_ids=named)
    )
    totals = await UsageServiceStub(channel).GetUsageTotals(
        usage.GetUsageTotalsRequest(tenant_ids=named)
    )

    [one] = totals.totals
    assert {row.tenant_id: row.balance_nanos for row in wallets.wallets} == {
        "ten_1": 1_000 - one.charged_nanos,
        "ten_2": 1_000,
    }
    assert (one.tenant_id, one.requests, one.tokens) == ("ten_1", 2, 2 * (5 + 30) + 1 + 2)


async def test_an_operator_sets_a_balance_by_a_transfer(bank: Any, billing: Served) -> None:
    await bank.fund("ten_1", 1_000)
    await bank.lend("ten_1", 300, id="l")
    set_by = [
        LedgerServiceStub(billing.channel(a_user(roles=[ROLE_OPERATOR], request_id=f"req_{n}")))
        for n in range(4)
    ]

    for stub, nanos in zip(set_by, (5_000, 5_000, 300, 400), strict=True):
        request = ledger.SetWalletBalanceRequest(tenant_id="ten_1", balance_nanos=nanos)
        wallet = await stub.SetWalletBalance(request)
        assert (wallet.balance_nanos, wallet.held_nanos) == (nanos, 300)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await set_by[0].SetWalletBalance(
            ledger.SetWalletBalanceRequest(tenant_id="ten_1", balance_nanos=299)
        )

    failure = failure_of(refused.value)
    assert (failure.reason, failure.violations[0].field) == ("BALANCE_HELD", "balance_nanos")
    mine = LedgerServiceStub(billing.channel(a_user(tenant_id="ten_1")))
    moved = (await mine.ListTransfers(ledger.ListTransfersRequest())).transfers
    assert [row.amount_nanos for row in moved] == [100, -4_700, 4_000, 1_000]
    assert (await bank.audit()).sound


async def test_a_balance_is_set_by_operators_alone_and_is_said(billing: Served) -> None:
    request = ledger.SetWalletBalanceRequest(tenant_id="ten_1", balance_nanos=1)
    unsaid = ledger.SetWalletBalanceRequest(tenant_id="ten_1")
    operator = a_user(roles=[ROLE_OPERATOR])
    for who, asked, code in (
        (a_user(), request, grpc.StatusCode.PERMISSION_DENIED),
        (an_api_key(roles=[ROLE_OPERATOR]), request, grpc.StatusCode.PERMISSION_DENIED),
        (operator, unsaid, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await LedgerServiceStub(billing.channel(who)).SetWalletBalance(asked)
        assert refused.value.code() is code


async def test_nobody_else_asks_for_many_tenants(billing: Served) -> None:
    for who in (a_user(roles=[ROLE_OPERATOR]), an_api_key(), a_part("inference")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await LedgerServiceStub(billing.channel(who)).GetWallets(ledger.GetWalletsRequest())
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_only_an_operator_audits(bank: Any, billing: Served) -> None:
    await bank.fund("ten_1", 1_000)
    operator = LedgerServiceStub(billing.channel(a_user(roles=[ROLE_OPERATOR])))

    found = await operator.AuditLedger(ledger.AuditLedgerRequest())

    assert (found.sound, found.accounts, found.postings, found.sum_nanos) == (True, 4, 2, 0)
    assert len(found.digest) == 64
    for caller in (a_user(), an_api_key(roles=[ROLE_OPERATOR]), a_part("inference")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await LedgerServiceStub(billing.channel(caller)).AuditLedger(
                ledger.AuditLedgerRequest()
            )
        assert failure_of(refused.value).reason in ("NOT_PERMITTED", "CREDENTIAL_REQUIRED")


@pytest.mark.parametrize(
    "caller",
    [a_user(roles=[ROLE_OPERATOR]), an_api_key(), a_part("gateway")],
    ids=["user", "key", "gw"],
)
async def test_only_inference_is_lent_to(bank: Any, billing: Served, caller: Any) -> None:
    stub = CreditServiceStub(billing.channel(caller))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.AcquireLease(bank.ask("ten_1", 1))

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
    gone = Database("postgresql://postgres@127.0.0.1:1/none")
    rim = services(gone, Recalls(gone.url), bank.settings())
    async with served("vlinders.billing", *rim) as billing:
        stub = CreditServiceStub(billing.channel(a_part("inference")))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.AcquireLease(bank.ask("ten_1", 1))
    await gone.close()

    failure = failure_of(refused.value)
    assert failure.reason == "DATABASE_UNAVAILABLE"
    assert failure.retry_after is not None
