"""A COMMIT whose answer is lost: it is done, nobody was told, and asking again is harmless."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy.exc import DBAPIError

from vlinders_billing.leases import Return
from vlinders_billing.ledger import PROMOTIONS, Movement, wallet_of
from vlinders_kit.db import Database
from vlinders_kit.testing.lines import Line, line


@pytest.fixture
def laid(bank: Any) -> Iterator[Line]:
    """A line to the bank's database that can lose answers."""
    url = urlsplit(bank.db.url)
    with line(url.hostname or "", url.port or 0) as laid:
        yield laid


@pytest.fixture
async def far(bank: Any, laid: Line) -> AsyncIterator[Any]:
    """The bank over that line."""
    url = urlsplit(bank.db.url)
    netloc = url.netloc.replace(str(url.port), str(laid.port))
    db = Database(url._replace(netloc=netloc).geturl())
    yield replace(bank, db=db)
    await db.close()


Operation = Callable[[Any], Awaitable[Any]]
GIFT = Movement("gift_1", "gift", PROMOTIONS, wallet_of("ten_1"), 5)
OPERATIONS: dict[str, Operation] = {
    "a transfer": lambda bank: bank.post(GIFT),
    "a lease": lambda bank: bank.lend("ten_1", 10, 60, id="new"),
    "a return": lambda bank: bank.give_back(Return("r", "l", 10, closes=False)),
    "usage": lambda bank: bank.record(bank.usage("ten_1", "l", 30, request_id="req_1")),
    "a price": lambda bank: bank.price("m", 1, 2, 3),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
async def test_what_is_asked_again_after_a_lost_answer_has_one_effect(
    bank: Any, far: Any, laid: Line, operation: Operation
) -> None:
    await bank.fund("ten_1", 100)
    await bank.lend("ten_1", 40, id="l")
    await far.audit()  # the line works
    laid.lose_commits()

    with pytest.raises(DBAPIError):
        await operation(far)
    done = (await bank.audit()).digest, (await bank.wallet("ten_1")).available_nanos
    await operation(far)

    assert laid.lost == 1
    assert ((await bank.audit()).digest, (await bank.wallet("ten_1")).available_nanos) == done
    assert (await bank.audit()).findings == []


async def test_the_effect_was_there_when_the_answer_was_lost(
    bank: Any, far: Any, laid: Line
) -> None:
    await bank.fund("ten_1", 100)
    laid.lose_commits()

    with pytest.raises(DBAPIError):
        await far.post(GIFT)

    assert (await bank.wallet("ten_1")).balance_nanos == 105
