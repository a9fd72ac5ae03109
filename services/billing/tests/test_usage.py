"""Usage: every request is charged once, never more than was held, and every charge explained."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from vlinders.inference.v1.events_pb2 import UsageRecorded
from vlinders_billing.charges import Flag
from vlinders_billing.ledger import LOSS, REVENUE
from vlinders_billing.wallets import Grants


@pytest.fixture
async def lent(bank: Any) -> Any:
    """A bank where `inf_1` holds lease `l` of 600 of the 1,000 that `ten_1` has."""
    await bank.fund("ten_1", 1_000)
    assert await bank.lend("ten_1", 600, id="l") == 600
    return bank


async def test_a_charge_is_paid_from_its_lease(lent: Any) -> None:
    [charge] = await lent.record(lent.usage("ten_1", "l", 100))

    assert (charge.charged_nanos, charge.lost_nanos, charge.flags) == (100, 0, 0)
    wallet = await lent.wallet("ten_1")
    assert (wallet.balance_nanos, wallet.held_nanos, wallet.available_nanos) == (900, 500, 400)
    assert (await lent.account(REVENUE)).balance_nanos == 100


async def test_an_event_that_comes_twice_charges_once(lent: Any) -> None:
    event = lent.usage("ten_1", "l", 100)

    await lent.record(event, event)
    assert await lent.record(event) == []

    assert (await lent.wallet("ten_1")).balance_nanos == 900
    assert len(await lent.records()) == 1


async def test_an_event_that_comes_twice_at_once_charges_once(lent: Any) -> None:
    event = lent.usage("ten_1", "l", 100)

    charged = await asyncio.gather(*(lent.record(event) for _ in range(8)))

    assert sorted(map(len, charged)) == [0] * 7 + [1]
    assert (await lent.wallet("ten_1")).balance_nanos == 900


async def test_a_batch_is_one_transfer_a_wallet(lent: Any) -> None:
    await lent.fund("ten_2", 1_000)
    await lent.lend("ten_2", 600, id="m")
    events = [lent.usage("ten_1", "l", 10) for _ in range(5)]
    events += [lent.usage("ten_2", "m", 20) for _ in range(5)]

    await lent.record(*events)

    records = await lent.records()
    first = {"ten_1": events[0].request_id, "ten_2": events[5].request_id}
    assert {row.transfer_id for row in records} == {f"usage:{id}" for id in first.values()}
    found = await lent.audit()
    assert (found.postings, found.findings) == (8, [])


async def test_one_lease_pays_for_many_requests_down_to_nothing(lent: Any) -> None:
    await lent.record(*(lent.usage("ten_1", "l", 100) for _ in range(7)))

    lease = await lent.lease("l")
    assert (lease.open_nanos, lease.used_nanos) == (0, 600)
    wallet = await lent.wallet("ten_1")
    assert (wallet.balance_nanos, wallet.held_nanos) == (400, 0)


async def test_an_open_lease_that_holds_less_pays_what_it_holds(lent: Any) -> None:
    [charge] = await lent.record(lent.usage("ten_1", "l", 700))

    assert (charge.charged_nanos, charge.lost_nanos, charge.flags) == (600, 100, Flag.OVER_HOLD)
    assert (await lent.wallet("ten_1")).available_nanos == 400
    assert (await lent.account(LOSS)).balance_nanos == -100
    assert (await lent.account(REVENUE)).balance_nanos == 700
    assert (await lent.audit()).findings == []


async def test_late_usage_takes_what_is_available_and_the_rest_is_lost(lent: Any) -> None:
    await lent.pass_time(timedelta(hours=1))
    await lent.sweep()
    await lent.lend("ten_1", 950, id="other")

    [charge] = await lent.record(lent.usage("ten_1", "l", 80))

    assert (charge.charged_nanos, charge.lost_nanos, charge.flags) == (50, 30, Flag.LATE)
    wallet = await lent.wallet("ten_1")
    assert (wallet.balance_nanos, wallet.held_nanos) == (950, 950)
    assert (await lent.account(LOSS)).balance_nanos == -30
    assert (await lent.audit()).findings == []


async def test_what_is_available_pays_late_usage_once(lent: Any) -> None:
    await lent.lend("ten_1", 350, id="other")

    charges = await lent.record(*(lent.usage("ten_1", "lease_none", 40) for _ in range(3)))

    assert [charge.charged_nanos for charge in charges] == [40, 10, 0]
    assert [charge.lost_nanos for charge in charges] == [0, 30, 40]
    assert (await lent.wallet("ten_1")).available_nanos == 0
    assert (await lent.audit()).findings == []


async def test_usage_within_the_grace_is_not_late(lent: Any) -> None:
    await lent.pass_time(timedelta(seconds=119))
    await lent.sweep()

    [charge] = await lent.record(lent.usage("ten_1", "l", 80))

    assert (charge.charged_nanos, charge.flags) == (80, 0)


async def test_a_lease_of_another_tenant_does_not_pay(lent: Any) -> None:
    await lent.fund("ten_2", 10)

    [charge] = await lent.record(lent.usage("ten_2", "l", 80))

    assert (charge.charged_nanos, charge.lost_nanos, charge.flags) == (10, 70, Flag.LATE)
    assert (await lent.lease("l")).open_nanos == 600


async def test_usage_opens_the_wallet_of_a_tenant_that_is_not_known_yet(bank: Any) -> None:
    bank.grants = Grants(signup_nanos=50, operator_nanos=0)

    [charge] = await bank.record(bank.usage("ten_new", "", 20))

    assert (charge.charged_nanos, charge.flags) == (20, Flag.LATE)
    assert (await bank.wallet("ten_new")).balance_nanos == 30
    assert (await bank.audit()).findings == []


async def test_what_costs_nothing_is_kept_and_moves_nothing(lent: Any) -> None:
    await lent.record(lent.usage("ten_1", "", 0))

    [record] = await lent.records()
    assert (record.charged_nanos, record.transfer_id, record.flags) == (0, "", 0)


async def test_a_period_can_be_rated_again_after_prices_have_changed(bank: Any) -> None:
    await bank.fund("ten_1", 10**9)
    await bank.lend("ten_1", 10**9, id="l")
    first = await bank.price("m", 3, 1, 7)
    second = await bank.price("m", 5, 2, 11)
    for version, (a, b, c), charged in (
        (first, (10, 20, 30), 260),
        (second, (10, 20, 30), 420),
        (first, (1, 0, 0), 3),
    ):
        tokens = {"input_tokens": a, "cached_input_tokens": b, "output_tokens": c}
        event = bank.usage("ten_1", "l", charged, model="m", price_version=version, **tokens)
        assert (await bank.record(event))[0].flags == 0

    rated = text("""
        SELECT sum(r.input_tokens * p.input_nanos + r.cached_input_tokens * p.cached_input_nanos
            + r.output_tokens * p.output_nanos), sum(r.charged_nanos)
        FROM usage_record r JOIN price_version p ON p.version = r.price_version
    """)
    async with bank.db.begin() as tx:
        assert tuple((await tx.execute(rated)).one()) == (683, 683)
    assert (await bank.audit()).findings == []


async def test_usage_of_no_request_or_no_tenant_is_refused(lent: Any) -> None:
    for field in ("request_id", "tenant_id"):
        event = lent.usage("ten_1", "l", 1)
        event.ClearField(field)
        with pytest.raises(ValueError, match="usage of no"):
            await lent.record(lent.usage("ten_1", "l", 1), event)
    assert await lent.records() == []


async def test_events_doubled_and_shuffled_end_as_events_in_order(lent: Any) -> None:
    chance = random.Random(7)
    events = [lent.usage("ten_1", "l", chance.randrange(1, 28)) for _ in range(40)]
    expected = 1_000 - sum(event.charged_nanos for event in events)
    assert expected > 400, "all fit into the lease, so that the order cannot matter"
    flow = [event for event in events for _ in range(chance.randint(1, 5))]
    chance.shuffle(flow)

    while flow:
        size = chance.randint(1, 9)
        await asyncio.gather(lent.record(*flow[:size]), lent.record(*flow[size : size * 2]))
        flow = flow[size * 2 :]

    assert (await lent.wallet("ten_1")).balance_nanos == expected
    assert len(await lent.records()) == 40
    assert (await lent.audit()).findings == []


async def test_records_of_any_month_find_their_partition(lent: Any) -> None:
    moments = [datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)]
    stamps = [Timestamp(seconds=int(moment.timestamp())) for moment in moments]

    await asyncio.gather(
        *(lent.record(lent.usage("ten_1", "l", 1, finished_at=stamp)) for stamp in stamps * 3)
    )

    months = text("""
        SELECT tableoid::regclass::text, count(*) FROM usage_record GROUP BY 1 ORDER BY 1
    """)
    async with lent.db.begin() as tx:
        rows = [tuple(row) for row in await tx.execute(months)]
    assert rows == [("usage_record_2025_12", 3), ("usage_record_2026_01", 3)]


async def test_hours_and_days_add_up_to_the_records(lent: Any) -> None:
    start = datetime(2026, 3, 1, 22, 30, tzinfo=UTC)
    for n in range(8):
        stamp = Timestamp(seconds=int((start + n * timedelta(minutes=30)).timestamp()))
        failed = UsageRecorded.OUTCOME_FAILED if n % 4 == 0 else UsageRecorded.OUTCOME_COMPLETED
        over = {"finished_at": stamp, "outcome": failed, "model": ("a", "b")[n % 2]}
        await lent.record(lent.usage("ten_1", "l", 10, **over), lent.usage("ten_1", "l", 1, **over))

    sums = "sum(requests), sum(failed), sum(output_tokens), sum(charged_nanos), sum(total_ms)"
    async with lent.db.begin() as tx:
        for table, rows in (("usage_hour", 8), ("usage_day", 4)):
            counted = await tx.execute(text(f"SELECT count(*), {sums} FROM {table}"))
            assert tuple(counted.one()) == (rows, 16, 4, 88, 88, 160)
