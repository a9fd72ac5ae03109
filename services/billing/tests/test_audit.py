"""The audit: finds a changed, deleted or inserted row, and nothing in sound books."""

from typing import Any

import pytest

from vlinders_billing.ledger import REVENUE, Movement, wallet_of

ODD_IDS = ['quote"s', "back\\slash", "snow ☃", "line\nbreak", "\u007f\u0001", "a, b]"]
FORGED = "'\\x00'::bytea"
LAST = "(SELECT max(seq) FROM posting WHERE account_id = 'revenue')"


@pytest.fixture
async def books(bank: Any) -> Any:
    """A bank where tenants have paid for requests, one of which nobody could be charged for."""
    for tenant in ("ten_1", "ten_2"):
        await bank.fund(tenant, 1_000)
        await bank.lend(tenant, 500, id=f"lease_{tenant}")
        for _ in range(3):
            await bank.record(bank.usage(tenant, f"lease_{tenant}", 100))
    await bank.fund("ten_3", 0)
    await bank.record(bank.usage("ten_3", "lease_none", 7, request_id="req_lost"))
    return bank


async def test_sound_books_are_sound(books: Any) -> None:
    found = await books.audit()

    assert found.findings == []
    assert found.sound
    assert (found.accounts, found.postings, found.sum_nanos) == (6, 18, 0)


async def test_empty_books_are_sound(bank: Any) -> None:
    assert (await bank.audit()).findings == []


async def test_the_chain_reads_any_id_as_it_was_written(bank: Any) -> None:
    await bank.fund("ten_1", 1_000)

    await bank.post(
        *(Movement(id, id, wallet_of("ten_1"), REVENUE, n + 1) for n, id in enumerate(ODD_IDS))
    )

    assert (await bank.audit()).findings == []


async def test_equal_books_have_equal_digests_and_others_have_others(books: Any) -> None:
    before = await books.audit()
    again = await books.audit()
    await books.record(books.usage("ten_1", "lease_ten_1", 1))
    after = await books.audit()

    assert before.digest == again.digest != after.digest


TAMPERINGS = {
    "a posting's amount": ["UPDATE posting SET amount_nanos = 99 WHERE seq = 2"],
    "a posting's balance": ["UPDATE posting SET balance_nanos = 1 WHERE seq = 2"],
    "a posting's hash": [f"UPDATE posting SET hash = {FORGED} WHERE seq = 2"],
    "two amounts that cancel out": [
        "UPDATE posting SET amount_nanos = amount_nanos + 1 WHERE account_id = 'revenue'",
        "UPDATE posting SET amount_nanos = amount_nanos - 1 WHERE account_id = 'promotions'",
    ],
    "a transfer's kind": ["UPDATE transfer SET kind = 'gift' WHERE kind = 'usage'"],
    "a transfer's amount": ["UPDATE transfer SET amount_nanos = 1 WHERE kind = 'usage'"],
    "a transfer's moment": ["UPDATE transfer SET created_at = created_at + interval '1 us'"],
    "a transfer's sides": [
        "UPDATE transfer SET source_id = target_id, target_id = source_id WHERE kind = 'loss'"
    ],
    "a posting that is gone": ["DELETE FROM posting WHERE account_id = 'revenue' AND seq = 2"],
    "the first posting gone": ["DELETE FROM posting WHERE account_id = 'revenue' AND seq = 1"],
    "the last posting gone": [f"DELETE FROM posting WHERE account_id = 'revenue' AND seq = {LAST}"],
    "a whole transfer gone": [
        "DELETE FROM posting WHERE transfer_id IN (SELECT id FROM transfer WHERE kind = 'loss')",
        "DELETE FROM transfer WHERE kind = 'loss'",
    ],
    "a transfer without postings": [
        "INSERT INTO transfer VALUES ('x', 'gift', 'promotions', 'wallet:ten_1', 5, now())"
    ],
    "a posting put in": [
        "INSERT INTO transfer VALUES ('x', 'gift', 'promotions', 'wallet:ten_1', 5, now())",
        "INSERT INTO posting SELECT 'wallet:ten_1', max(seq) + 1, 'x', 5, 5, "
        f"{FORGED} FROM posting WHERE account_id = 'wallet:ten_1'",
    ],
    "a posting of no transfer": [
        f"INSERT INTO posting VALUES ('wallet:ten_3', 1, 'nothing', 0, 0, {FORGED})"
    ],
    "a balance": ["UPDATE account SET balance_nanos = balance_nanos + 1 WHERE id = 'wallet:ten_1'"],
    "a head": [f"UPDATE account SET head = {FORGED} WHERE id = 'revenue'"],
    "a count of postings": ["UPDATE account SET postings = postings + 1 WHERE id = 'revenue'"],
    "a hold": ["UPDATE account SET held_nanos = held_nanos + 1 WHERE id = 'wallet:ten_1'"],
    "a lease that is gone": ["DELETE FROM lease WHERE id = 'lease_ten_1'"],
    "a usage record's charge": ["UPDATE usage_record SET charged_nanos = charged_nanos + 1"],
    "a usage record that is gone": ["DELETE FROM usage_record WHERE request_id = 'req_lost'"],
    "a loss": ["UPDATE usage_record SET lost_nanos = 8 WHERE request_id = 'req_lost'"],
    "tokens of a usage record": ["UPDATE usage_record SET output_tokens = output_tokens - 1"],
    "a price": ["UPDATE price_version SET output_nanos = 0"],
    "a usage record that was never settled": [
        "CREATE TABLE usage_record_now PARTITION OF usage_record DEFAULT",
        "UPDATE usage_record SET finished_at = now()",
        "DELETE FROM settled_request",
    ],
    "a settled request that was never kept": [
        "INSERT INTO settled_request (request_id) VALUES ('req_nobody')"
    ],
}


@pytest.mark.parametrize("statements", TAMPERINGS.values(), ids=TAMPERINGS.keys())
async def test_what_was_tampered_with_is_found(books: Any, statements: list[str]) -> None:
    await books.tamper(*statements)

    found = await books.audit()

    assert not found.sound
    assert found.findings
