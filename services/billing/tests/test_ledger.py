"""The ledger: what goes out of one account goes into another, once, and no wallet is overdrawn."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from vlinders_billing import ledger
from vlinders_billing.errors import InsufficientBalance, TransferConflict
from vlinders_billing.ledger import REVENUE, Movement, wallet_of
from vlinders_kit.errors import AppError

WALLET = wallet_of("ten_1")


def a_charge(id: str = "purchase:1", nanos: int = 30, **over: Any) -> Movement:
    return Movement(
        **{
            "id": id,
            "kind": "purchase",
            "source": WALLET,
            "target": REVENUE,
            "amount_nanos": nanos,
            **over,
        }
    )


@pytest.fixture
async def funded(bank: Any) -> Any:
    """A bank where `ten_1` has 100."""
    await bank.fund("ten_1", 100)
    return bank


async def test_what_leaves_one_account_enters_the_other(funded: Any) -> None:
    balances = await funded.post(a_charge(nanos=30))

    assert balances == {WALLET: 70, REVENUE: 30}
    assert (await funded.wallet("ten_1")).balance_nanos == 70
    assert (await funded.account(REVENUE)).balance_nanos == 30


async def test_the_same_transfer_again_changes_nothing(funded: Any) -> None:
    await funded.post(a_charge())

    assert await funded.post(a_charge()) == {}
    assert (await funded.wallet("ten_1")).balance_nanos == 70


async def test_twenty_at_once_of_one_transfer_are_one(funded: Any) -> None:
    answers = await asyncio.gather(*(funded.post(a_charge()) for _ in range(20)))

    assert sorted(answers, key=len) == [{}] * 19 + [{WALLET: 70, REVENUE: 30}]
    assert (await funded.wallet("ten_1")).balance_nanos == 70


@pytest.mark.parametrize(
    "other",
    [{"nanos": 31}, {"kind": "gift"}, {"target": "loss"}, {"source": "promotions"}],
    ids=lambda other: next(iter(other)),
)
async def test_an_id_cannot_stand_for_another_transfer(funded: Any, other: Any) -> None:
    await funded.post(a_charge())

    with pytest.raises(TransferConflict):
        await funded.post(a_charge(**other))
    assert (await funded.wallet("ten_1")).balance_nanos == 70


async def test_more_than_the_balance_cannot_be_taken(funded: Any) -> None:
    with pytest.raises(InsufficientBalance) as refused:
        await funded.post(a_charge(nanos=101))

    assert refused.value.account_id == WALLET
    assert await funded.post(a_charge(nanos=100)) == {WALLET: 0, REVENUE: 100}


async def test_what_is_held_cannot_be_taken(funded: Any) -> None:
    async with funded.db.begin() as tx:
        await ledger.hold(tx, WALLET, 80)

    with pytest.raises(InsufficientBalance):
        await funded.post(a_charge(nanos=21))
    async with funded.db.begin() as tx:
        with pytest.raises(InsufficientBalance):
            await ledger.hold(tx, WALLET, 21)
    assert (await funded.wallet("ten_1")).available_nanos == 20


async def test_a_transfer_may_end_the_hold_it_is_paid_from(funded: Any) -> None:
    async with funded.db.begin() as tx:
        await ledger.hold(tx, WALLET, 80)

    await funded.post(a_charge(nanos=70, released_nanos=80))

    wallet = await funded.wallet("ten_1")
    assert (wallet.balance_nanos, wallet.held_nanos) == (30, 0)


async def test_transfers_are_made_together_or_not_at_all(funded: Any) -> None:
    with pytest.raises(InsufficientBalance):
        await funded.post(a_charge("a", 60), a_charge("b", 60))

    assert (await funded.wallet("ten_1")).balance_nanos == 100
    assert (await funded.audit()).postings == 2


async def test_of_many_debits_at_once_as_many_pass_as_there_is_money(funded: Any) -> None:
    async def passes(n: int) -> bool:
        try:
            return bool(await funded.post(a_charge(f"purchase:{n}", 9)))
        except AppError:
            return False

    assert sum(await asyncio.gather(*(passes(n) for n in range(60)))) == 11
    assert (await funded.wallet("ten_1")).balance_nanos == 1
    assert (await funded.audit()).findings == []


async def test_transfers_in_opposite_directions_do_not_lock_each_other_out(bank: Any) -> None:
    await bank.fund("ten_1", 1_000)
    await bank.fund("ten_2", 1_000)
    one, two = wallet_of("ten_1"), wallet_of("ten_2")

    there = (bank.post(Movement(f"a{n}", "gift", one, two, 1)) for n in range(30))
    back = (bank.post(Movement(f"b{n}", "gift", two, one, 1)) for n in range(30))
    await asyncio.gather(*there, *back)

    assert (await bank.wallet("ten_1")).balance_nanos == 1_000
    assert (await bank.audit()).findings == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transfer SET amount_nanos = 1",
        "DELETE FROM posting",
        "TRUNCATE posting",
        "UPDATE account SET held_nanos = balance_nanos + 1 WHERE tenant_id IS NOT NULL",
        "UPDATE account SET held_nanos = -1",
    ],
)
async def test_the_database_itself_refuses_to_break_the_books(funded: Any, statement: str) -> None:
    with pytest.raises(DBAPIError):
        async with funded.db.begin() as tx:
            await tx.execute(text(statement))
