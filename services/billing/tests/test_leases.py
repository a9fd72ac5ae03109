"""Credit leases: what is lent is held, comes back once, and never stays away for ever."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from vlinders_billing import leases
from vlinders_billing.errors import LeaseConflict, LeaseOver, ReturnConflict
from vlinders_billing.leases import Return, Short

HOUR = timedelta(hours=1)


@pytest.fixture
async def lent(bank: Any) -> Any:
    """A bank where `inf_1` holds lease `l` of 60 of the 100 that `ten_1` has."""
    await bank.fund("ten_1", 100)
    assert await bank.lend("ten_1", 10, 60, id="l") == 60
    return bank


async def available(bank: Any) -> int:
    wallet = await bank.wallet("ten_1")
    assert (await bank.audit()).findings == []
    return int(wallet.available_nanos)


async def test_what_is_lent_is_held(lent: Any) -> None:
    wallet = await lent.wallet("ten_1")

    assert (wallet.balance_nanos, wallet.held_nanos) == (100, 60)


async def test_a_lease_is_as_large_as_wanted_or_as_the_wallet_allows(lent: Any) -> None:
    assert await lent.lend("ten_1", 10, 60) == 40


async def test_less_than_the_least_is_not_lent(lent: Any) -> None:
    short = await lent.lend("ten_1", 41, 60, holder="inf_2")

    assert short == Short(available_nanos=40, elsewhere_nanos=60)
    assert await available(lent) == 40


async def test_asking_again_answers_the_same_lease(lent: Any) -> None:
    answers = await asyncio.gather(*(lent.lend("ten_1", 10, 60, id="l") for _ in range(20)))

    assert answers == [60] * 20
    assert await available(lent) == 40


@pytest.mark.parametrize(
    "other",
    [{"holder": "inf_2"}, {"least": 11}, {"wanted": 61}, {"tenant_id": "ten_2"}],
    ids=lambda other: next(iter(other)),
)
async def test_a_lease_id_cannot_stand_for_another_lease(lent: Any, other: Any) -> None:
    await lent.fund("ten_2", 100)

    with pytest.raises(LeaseConflict):
        await lent.lend(**{"tenant_id": "ten_1", "least": 10, "wanted": 60, "id": "l", **other})


async def test_returned_money_is_available_again(lent: Any) -> None:
    await lent.give_back(Return("r", "l", 25, closes=False))

    assert await available(lent) == 65
    lease = await lent.lease("l")
    assert (lease.open_nanos, lease.returned_nanos, lease.over_at) == (35, 25, None)


async def test_a_return_counts_once(lent: Any) -> None:
    back = Return("r", "l", 25, closes=False)

    await asyncio.gather(*(lent.give_back(back, back) for _ in range(10)))

    assert await available(lent) == 65


async def test_a_return_id_cannot_stand_for_another_return(lent: Any) -> None:
    await lent.give_back(Return("r", "l", 25, closes=False))

    with pytest.raises(ReturnConflict):
        await lent.give_back(Return("r", "l", 26, closes=False))
    assert await available(lent) == 65


async def test_no_more_comes_back_than_is_open(lent: Any) -> None:
    await lent.give_back(Return("r1", "l", 50, closes=False), Return("r2", "l", 50, closes=False))

    assert await available(lent) == 100


async def test_nobody_returns_what_another_holds(lent: Any) -> None:
    await lent.give_back(Return("r", "l", 25, closes=True), holder="inf_2")
    await lent.give_back(Return("s", "unknown", 25, closes=True))

    assert await available(lent) == 40


async def test_a_closed_lease_ends_when_nothing_of_it_is_open(lent: Any) -> None:
    await lent.give_back(Return("r", "l", 50, closes=True))
    assert (await lent.lease("l")).over_at is None

    await lent.record(lent.usage("ten_1", "l", 10))

    assert (await lent.lease("l")).over_at is not None
    assert await available(lent) == 90


async def test_a_running_request_of_a_closed_lease_can_still_give_back(lent: Any) -> None:
    await lent.give_back(Return("r", "l", 50, closes=True))
    await lent.give_back(Return("s", "l", 4, closes=False))
    await lent.record(lent.usage("ten_1", "l", 6))

    assert (await lent.lease("l")).over_at is not None
    assert await available(lent) == 94


async def test_a_lease_expires_after_its_lifetime_and_grace(lent: Any) -> None:
    await lent.pass_time(timedelta(seconds=119))
    await lent.sweep()
    assert await available(lent) == 40

    await lent.pass_time(timedelta(seconds=2))
    await lent.sweep()
    assert await available(lent) == 100
    assert (await lent.lease("l")).over_at is not None


async def test_a_renewed_lease_does_not_expire(lent: Any) -> None:
    await lent.pass_time(timedelta(seconds=119))

    assert await lent.renew("l") == []
    await lent.pass_time(timedelta(seconds=119))
    await lent.sweep()

    assert await available(lent) == 40


async def test_leases_that_are_over_closed_or_anothers_are_not_renewed(lent: Any) -> None:
    await lent.lend("ten_1", 10, id="closed")
    await lent.give_back(Return("r", "closed", 1, closes=True))
    await lent.lend("ten_1", 10, id="theirs", holder="inf_2")
    await lent.lend("ten_1", 10, id="over")
    await lent.give_back(Return("s", "over", 10, closes=True))

    gone = await lent.renew("l", "closed", "theirs", "over", "unknown")

    assert gone == ["closed", "theirs", "over", "unknown"]


async def test_a_lease_that_is_over_is_not_lent_again(lent: Any) -> None:
    await lent.give_back(Return("r", "l", 60, closes=True))

    with pytest.raises(LeaseOver):
        await lent.lend("ten_1", 10, 60, id="l")


async def test_sweepers_that_run_at_once_free_each_lease_once(lent: Any) -> None:
    for n in range(5):
        await lent.lend("ten_1", 5, id=f"l{n}")
    await lent.pass_time(HOUR)

    await asyncio.gather(*(lent.sweep() for _ in range(4)))

    assert await available(lent) == 100


async def test_every_hold_of_the_dead_is_freed(bank: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SWEEP_BATCH", 10)
    await bank.fund("ten_1", 100)
    await asyncio.gather(*(bank.lend("ten_1", 2, holder=f"inf_{n}") for n in range(25)))
    await bank.pass_time(HOUR)

    more = True
    while more:
        async with bank.db.begin() as tx:
            more = await leases.sweep(tx, timedelta(0))

    assert await available(bank) == 100


async def test_leases_long_over_are_forgotten_with_their_returns(lent: Any) -> None:
    await lent.lend("ten_1", 10, id="young")
    await lent.give_back(Return("r", "l", 60, closes=True), Return("s", "young", 1, closes=False))
    await lent.pass_time(leases.KEPT + HOUR)

    async with lent.db.begin() as tx:
        assert not await leases.forget(tx)

    assert (await lent.lease("young")).over_at is None
    # The return's id is free again only because its lease is forgotten.
    assert await lent.lend("ten_1", 10, 60, id="l") == 60
    await lent.give_back(Return("r", "l", 1, closes=False))
    assert (await lent.lease("l")).returned_nanos == 1
