"""Upkeep: done by one replica at a time, and again when it failed."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from vlinders_billing.settings import BillingSettings
from vlinders_billing.upkeep import Upkeep
from vlinders_kit.clock import ManualClock
from vlinders_kit.db import Database, Tx


@pytest.fixture
def upkeep(bank: Any) -> Upkeep:
    settings = BillingSettings(
        port=1, caller_key="00" * 32, database_url=bank.db.url, bus="memory:", lease_grace="PT0S"
    )
    return Upkeep(bank.db, settings, ManualClock(datetime(2026, 12, 5, tzinfo=UTC)))


async def test_expired_money_goes_back(bank: Any, upkeep: Upkeep) -> None:
    await bank.fund("ten_1", 100)
    await bank.lend("ten_1", 60)
    await bank.pass_time(timedelta(minutes=2))

    await asyncio.gather(*(upkeep.sweep() for _ in range(4)))

    assert (await bank.wallet("ten_1")).available_nanos == 100


async def test_a_job_that_another_replica_does_is_left_to_it(bank: Any, upkeep: Upkeep) -> None:
    await bank.fund("ten_1", 100)
    await bank.lend("ten_1", 60)
    await bank.pass_time(timedelta(minutes=2))

    async with bank.db.begin() as tx:
        await tx.execute(text("SELECT pg_advisory_xact_lock(hashtext('vlinders.billing.sweep'))"))
        await upkeep.sweep()

    assert (await bank.wallet("ten_1")).available_nanos == 40


async def test_partitions_are_there_before_their_month(bank: Any, upkeep: Upkeep) -> None:
    await asyncio.gather(*(upkeep.make_partitions() for _ in range(3)))

    names = text("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY 1")
    async with bank.db.begin() as tx:
        made = list(await tx.scalars(names))
    assert made == ["usage_record_2026_12", "usage_record_2027_01"]


async def test_that_a_request_was_settled_is_forgotten_after_a_month_and_its_record_is_kept(
    bank: Any, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlinders_billing.usage.FORGET_BATCH", 2)
    await bank.fund("ten_1", 100)
    await bank.lend("ten_1", 100, id="l")
    old, young = [bank.usage("ten_1", "l", 10) for _ in range(5)], bank.usage("ten_1", "l", 10)
    await bank.record(*old, young)
    month = text("UPDATE settled_request SET at = at - interval '32 days' WHERE request_id <> :id")
    async with bank.db.begin() as tx:
        await tx.execute(month, {"id": young.request_id})

    await upkeep.forget()
    await bank.record(young)

    assert (await bank.count("settled_request"), await bank.count("usage_record")) == (1, 6)
    assert (await bank.wallet("ten_1")).balance_nanos == 40
    assert (await bank.audit()).findings == []


async def test_the_ledger_is_proved_once_an_interval_by_whichever_replica(upkeep: Upkeep) -> None:
    found = await asyncio.gather(*(upkeep.audit() for _ in range(3)))

    assert [audit.sound for audit in found if audit] == [True]


async def test_an_audit_that_failed_is_due_again_within_the_hour(
    bank: Any, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(tx: Tx) -> None:
        raise RuntimeError

    with monkeypatch.context() as broken:
        broken.setattr("vlinders_billing.audit.audit", fail)
        with pytest.raises(RuntimeError):
            await upkeep.audit()
    assert await upkeep.audit() is None

    async with bank.db.begin() as tx:
        await tx.execute(text("UPDATE job SET due_at = due_at - interval '1 hour'"))
    assert await upkeep.audit() is not None


async def test_unsound_books_are_an_alert(bank: Any, upkeep: Upkeep) -> None:
    await bank.fund("ten_1", 100)
    await bank.tamper("UPDATE posting SET amount_nanos = 101 WHERE amount_nanos = 100")

    with capture_logs() as lines:
        await upkeep.audit()

    [line] = [line for line in lines if line["event"] == "ledger_audited"]
    assert (line["log_level"], line["alert"], line["sound"]) == ("error", True, False)
    assert line["findings"]


async def test_upkeep_rides_out_a_missing_database(
    bank: Any, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, gone = bank.db, Database("postgresql://postgres@127.0.0.1:1/none")
    swept = asyncio.Event()
    upkeep.db = gone
    failing = Upkeep.sweep

    async def sweep(self: Upkeep) -> None:
        try:
            await failing(self)
        except Exception:
            self.db = real  # it is back
            raise
        swept.set()

    monkeypatch.setattr(Upkeep, "sweep", sweep)
    upkeep.settings = upkeep.settings.model_copy(
        update={"sweep_interval": timedelta(milliseconds=10)}
    )
    running = asyncio.create_task(upkeep.run())

    await swept.wait()

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await gone.close()
