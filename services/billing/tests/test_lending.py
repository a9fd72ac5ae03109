"""Lending: exactly as many requests are admitted as there is money for, wherever it lies."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import pytest
from sqlalchemy import text

from vlinders.billing.v1 import credit_pb2 as credit
from vlinders.billing.v1.credit_pb2_grpc import CreditServiceStub
from vlinders_billing import lending
from vlinders_kit.errors import failure_of
from vlinders_kit.ids import new_id
from vlinders_kit.testing import a_part


@dataclass
class Holder:
    """A replica of inference: requests of one cost, admitted from one lease after the other."""

    bank: Any
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
        ask = self.bank.ask(self.tenant_id, self.cost, self.cost * 30, holder=self.name)
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
    patient = {"recall_wait": timedelta(seconds=3)}  # however busy the machine is
    async with bank.replica(**patient) as one, bank.replica(**patient) as two:
        stubs = [CreditServiceStub(part.channel(a_part("inference"))) for part in (one, two)]
        holders = [Holder(bank, f"inf_{n}", stub, "ten_1", cost=7) for n, stub in enumerate(stubs)]
        async with watching(*holders):
            admitted = await asyncio.gather(*(holders[n % 2].admit() for n in range(200)))

    assert sum(admitted) == sum(holder.admitted for holder in holders) == 40
    assert (await bank.wallet("ten_1")).available_nanos < 7
    assert (await bank.audit()).findings == []


async def test_idle_money_of_another_holder_is_recalled_through_another_replica(bank: Any) -> None:
    await bank.fund("ten_1", 100)
    async with bank.replica() as one, bank.replica() as two:
        own = CreditServiceStub(one.channel(a_part("inference")))
        hoarder = Holder(bank, "inf_1", own, "ten_1", cost=10)
        assert await hoarder.admit()
        assert hoarder.idle == 90
        stub = CreditServiceStub(two.channel(a_part("inference")))
        lease = None
        async with watching(hoarder):
            while lease is None:  # until its WatchRecalls has begun, the hoarder hears nothing
                with contextlib.suppress(grpc.aio.AioRpcError):
                    lease = await stub.AcquireLease(bank.ask("ten_1", 80, holder="inf_2"))

    assert (lease.granted_nanos, hoarder.idle) == (80, 0)


async def test_a_holder_that_does_not_answer_is_not_waited_for_long(bank: Any) -> None:
    await bank.fund("ten_1", 100)
    await bank.lend("ten_1", 90, holder="dead")
    async with bank.replica(recall_wait=timedelta(milliseconds=50)) as billing:
        stub = CreditServiceStub(billing.channel(a_part("inference")))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.AcquireLease(bank.ask("ten_1", 11))

    failure = failure_of(refused.value)
    assert failure.status is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.reason == "INSUFFICIENT_CREDIT"
    assert failure.facts == {"available_nanos": "10", "needed_nanos": "11"}


@asynccontextmanager
async def answering(stub: CreditServiceStub, *busy: str) -> AsyncIterator[asyncio.Event]:
    """The holder `inf_2`, which says of leases that requests hold all of it; set once it has."""
    said = asyncio.Event()

    async def answer() -> None:
        async for recall in stub.WatchRecalls(credit.WatchRecallsRequest(holder="inf_2")):
            request = credit.ReturnCreditRequest(holder="inf_2")
            for id in recall.recall_ids:
                request.answers.add(recall_id=id, busy_lease_ids=busy)
            await stub.ReturnCredit(request)
            said.set()

    task = asyncio.create_task(answer())
    yield said
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_requests_hold_elsewhere_is_not_waited_for(bank: Any) -> None:
    await bank.fund("ten_1", 100)
    patient = {"recall_wait": timedelta(hours=1)}
    async with bank.replica(**patient) as one, bank.replica(**patient) as two:
        stubs = [CreditServiceStub(part.channel(a_part("inference"))) for part in (one, two)]
        lease = await stubs[1].AcquireLease(bank.ask("ten_1", 90, holder="inf_2"))
        async with answering(stubs[1], lease.lease_id):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stubs[0].AcquireLease(bank.ask("ten_1", 11))

    assert failure_of(refused.value).reason == "INSUFFICIENT_CREDIT"
    assert failure_of(refused.value).facts["available_nanos"] == "10"


async def test_what_an_answer_does_not_speak_of_is_waited_for(bank: Any) -> None:
    await bank.fund("ten_1", 100)
    async with bank.replica(recall_wait=timedelta(hours=1)) as billing:
        stub = CreditServiceStub(billing.channel(a_part("inference")))
        asks = [bank.ask("ten_1", 50, holder="inf_2") for _ in range(2)]
        busy, idle = [(await stub.AcquireLease(ask)).lease_id for ask in asks]
        async with answering(stub, busy) as said:
            asking = asyncio.ensure_future(stub.AcquireLease(bank.ask("ten_1", 50)))
            await said.wait()
            assert not asking.done()
            back = credit.ReturnCreditRequest.Return(return_id="r", lease_id=idle, nanos=50)
            await stub.ReturnCredit(credit.ReturnCreditRequest(holder="inf_2", returns=[back]))
            assert (await asking).granted_nanos == 50


async def test_usage_on_its_way_is_not_waited_for(bank: Any) -> None:
    await bank.fund("ten_1", 100)
    async with bank.replica(recall_wait=timedelta(hours=1)) as billing:
        stub = CreditServiceStub(billing.channel(a_part("inference")))
        lease = await stub.AcquireLease(bank.ask("ten_1", 90, holder="inf_2"))
        closes = credit.ReturnCreditRequest.Return(
            return_id="r", lease_id=lease.lease_id, nanos=0, close=True
        )
        await stub.ReturnCredit(credit.ReturnCreditRequest(holder="inf_2", returns=[closes]))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.AcquireLease(bank.ask("ten_1", 11))

    assert failure_of(refused.value).reason == "INSUFFICIENT_CREDIT"


async def test_who_waits_hears_of_a_lease_that_is_closed_with_nothing_left(
    bank: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "LOOK_AGAIN_SECONDS", 3_600)  # he looks when he is told to
    await bank.fund("ten_1", 100)
    async with bank.replica(recall_wait=timedelta(hours=1)) as billing:
        stub = CreditServiceStub(billing.channel(a_part("inference")))
        lease = await stub.AcquireLease(bank.ask("ten_1", 90, holder="inf_2"))
        async with answering(stub) as said:
            asking = asyncio.ensure_future(stub.AcquireLease(bank.ask("ten_1", 11)))
            await said.wait()
            closes = credit.ReturnCreditRequest.Return(
                return_id="r", lease_id=lease.lease_id, nanos=0, close=True
            )
            await stub.ReturnCredit(credit.ReturnCreditRequest(holder="inf_2", returns=[closes]))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await asking

    assert failure_of(refused.value).reason == "INSUFFICIENT_CREDIT"


async def test_what_nobody_could_return_is_refused_at_once(bank: Any) -> None:
    await bank.fund("ten_1", 100)
    async with bank.replica(recall_wait=timedelta(hours=1)) as billing:
        stub = CreditServiceStub(billing.channel(a_part("inference")))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.AcquireLease(bank.ask("ten_1", 101))

    assert failure_of(refused.value).reason == "INSUFFICIENT_CREDIT"


async def test_what_only_the_asker_himself_could_return_is_refused_at_once(bank: Any) -> None:
    await bank.fund("ten_1", 100)
    async with bank.replica(recall_wait=timedelta(hours=1)) as billing:
        stub = CreditServiceStub(billing.channel(a_part("inference")))
        await stub.AcquireLease(bank.ask("ten_1", 90, holder="inf_1"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.AcquireLease(bank.ask("ten_1", 11, holder="inf_1"))

    assert failure_of(refused.value).reason == "INSUFFICIENT_CREDIT"


async def test_the_first_request_of_a_new_tenant_opens_its_wallet_with_the_grant(
    bank: Any,
) -> None:
    async with bank.replica(signup_grant="0.000000100") as billing:
        stub = CreditServiceStub(billing.channel(a_part("inference")))
        asks = [bank.ask("ten_new", 10, holder=f"inf_{n}") for n in range(12)]
        leases = await asyncio.gather(*map(stub.AcquireLease, asks), return_exceptions=True)

    granted = [lease for lease in leases if isinstance(lease, credit.Lease)]
    assert len(granted) == 10
    assert (await bank.wallet("ten_new")).balance_nanos == 100
    assert (await bank.audit()).findings == []


async def test_callers_who_leave_leave_no_transaction_and_no_hold_behind(bank: Any) -> None:
    await bank.fund("ten_1", 10_000)
    chance = random.Random(3)

    async def leave(stub: CreditServiceStub) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stub.AcquireLease(bank.ask("ten_1", 10), timeout=chance.uniform(0.0005, 0.03))

    async with bank.replica() as billing:
        stub = CreditServiceStub(billing.channel(a_part("inference")))
        await asyncio.gather(*(leave(stub) for _ in range(60)))
        busy = text("""
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
                AND xact_start IS NOT NULL
        """)
        left = 1
        while left:
            async with bank.db.begin() as tx:
                left = await tx.scalar(busy)

    wallet = await bank.wallet("ten_1")
    assert wallet.held_nanos == 10 * await bank.count("lease")
    assert (await bank.audit()).findings == []
