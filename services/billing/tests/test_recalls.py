"""Recalls: told to all who may have the money, kept short for those who read slowly."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from vlinders.billing.v1 import credit_pb2 as credit
from vlinders.billing.v1.credit_pb2_grpc import CreditServiceStub
from vlinders_billing import recalls
from vlinders_billing.recalls import RECALLS_KEPT, Recall, Recalls
from vlinders_kit.db import Database
from vlinders_kit.testing import a_part


@pytest.fixture
async def told(db: Database) -> AsyncIterator[Recalls]:
    told = Recalls(db.url)
    listening = asyncio.create_task(told.run())
    await told.listening.wait()
    yield told
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def want(db: Database, *tenants: str, by: str = "inf_0") -> None:
    for tenant in tenants:
        async with db.begin() as tx:
            await recalls.tell_wanted(tx, tenant, by, f"of_{tenant}")


async def test_everybody_hears_but_who_asks(db: Database, told: Recalls) -> None:
    first, second = told.watch("inf_1"), told.watch("inf_2")
    heard = asyncio.gather(anext(first), anext(second))
    await asyncio.sleep(0)  # both watch now

    await want(db, "ten_1", by="inf_1")
    await want(db, "ten_2", by="inf_2")

    assert await heard == [Recall("ten_2", ("of_ten_2",)), Recall("ten_1", ("of_ten_1",))]
    await first.aclose()
    await second.aclose()


async def test_who_reads_slowly_hears_of_each_tenant_once(db: Database, told: Recalls) -> None:
    watch = told.watch("inf_1")
    reading = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await want(db, "ten_0")
    assert (await reading).tenant_id == "ten_0"

    with told.waiting("ten_9", "lease_9") as wait:
        await want(db, *["ten_1", "ten_2"] * 20)
        async with db.begin() as tx:
            await recalls.tell_back(tx, ["ten_9"])
        await wait.news.wait()

    assert [(await anext(watch)).tenant_id for _ in range(2)] == ["ten_1", "ten_2"]
    last = asyncio.ensure_future(anext(watch))
    await want(db, "ten_3")
    assert (await last).tenant_id == "ten_3"
    await watch.aclose()


async def test_who_reads_slowly_hears_of_the_latest_recalls(db: Database, told: Recalls) -> None:
    watch = told.watch("inf_1")
    reading = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await want(db, "ten_0")
    await reading

    with told.waiting("ten_9", "lease_9") as wait:
        async with db.begin() as tx:
            for number in range(RECALLS_KEPT + 5):
                await recalls.tell_wanted(tx, "ten_1", "inf_0", f"lease_{number}")
            await recalls.tell_back(tx, ["ten_9"])
        await wait.news.wait()

    ids = (await anext(watch)).ids
    assert ids == tuple(f"lease_{number}" for number in range(5, RECALLS_KEPT + 5))
    await watch.aclose()


async def test_an_answer_is_heard_by_whom_it_is_for_however_long(
    db: Database, told: Recalls
) -> None:
    busy = [f"lease_{number:058}" for number in range(500)]
    with told.waiting("ten_1", "recall_1") as wait, told.waiting("ten_1", "recall_2") as other:
        async with db.begin() as tx:
            await recalls.tell_answered(tx, "recall_1", busy)
        while len(wait.busy) < len(busy):
            await wait.news.wait()
            wait.news.clear()

        assert wait.busy == set(busy)
        assert other.busy == set()


async def test_nobody_answers_for_the_leases_of_another(bank: Any, told: Recalls) -> None:
    await bank.fund("ten_1", 100)
    async with bank.replica() as billing:
        stub: Any = CreditServiceStub(billing.channel(a_part("inference")))
        asks = [bank.ask("ten_1", 50, holder=holder) for holder in ("inf_2", "inf_3")]
        own, others = [(await stub.AcquireLease(ask)).lease_id for ask in asks]
        request = credit.ReturnCreditRequest(holder="inf_2")
        request.answers.add(recall_id="recall_1", busy_lease_ids=[own, others, "lease_of_nobody"])
        with told.waiting("ten_1", "recall_1") as wait:
            await stub.ReturnCredit(request)
            await wait.news.wait()

    assert wait.busy == {own}


async def test_what_is_rolled_back_is_not_told(db: Database, told: Recalls) -> None:
    watch = told.watch("inf_1")
    heard = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)

    async with db.begin() as tx:
        await recalls.tell_wanted(tx, "ten_never", "inf_0", "lease_1")
        await tx.rollback()
    await want(db, "ten_1")

    assert (await heard).tenant_id == "ten_1"
    await watch.aclose()


async def test_a_lost_connection_is_made_again(db: Database, told: Recalls) -> None:
    watch = told.watch("inf_1")
    heard = asyncio.ensure_future(anext(watch))
    async with db.begin() as tx:
        await tx.execute(
            text("""
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name = 'recalls' AND datname = current_database()
            """)
        )
    while told.listening.is_set():
        await asyncio.sleep(0.01)
    await told.listening.wait()

    await want(db, "ten_1")

    assert (await heard).tenant_id == "ten_1"
    await watch.aclose()


async def test_closing_ends_who_watches_now_and_later(told: Recalls) -> None:
    async def all_of(holder: str) -> list[str]:
        return [recall.tenant_id async for recall in told.watch(holder)]

    watching = asyncio.create_task(all_of("inf_1"))
    await asyncio.sleep(0)

    await told.close()

    assert await watching == []
    assert await all_of("inf_2") == []
