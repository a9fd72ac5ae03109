"""Price versions: a version only where the price is another, and every one for ever."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from vlinders.billing.v1.events_pb2 import PriceChanged
from vlinders_billing import price_versions
from vlinders_billing.price_versions import Wanted
from vlinders_billing.prices import Price
from vlinders_kit.errors import InvalidRequest
from vlinders_kit.events import outbox


async def changes(bank: Any) -> list[PriceChanged]:
    async with bank.db.begin() as tx:
        bodies = await tx.scalars(select(outbox.c.body).order_by(outbox.c.seq))
        return [PriceChanged.FromString(body) for body in bodies]


async def in_force(bank: Any) -> dict[str, str]:
    async with bank.db.begin() as tx:
        return {row.model: row.version for row in await price_versions.in_force(tx)}


async def test_a_price_that_is_in_force_makes_no_version(bank: Any) -> None:
    first = await bank.price("m", 3, 1, 7)

    assert await bank.price("m", 3, 1, 7) == first
    assert [event.version for event in await changes(bank)] == [bank.version, first]


async def test_another_price_is_another_version_and_is_told(bank: Any) -> None:
    first = await bank.price("m", 3, 1, 7)
    second = await bank.price("m", 3, 1, 8)

    assert first != second
    assert await in_force(bank) == {"m": second, "tiny": bank.version}
    assert [event.model for event in await changes(bank)] == ["tiny", "m", "m"]
    async with bank.db.begin() as tx:
        prices = await price_versions.of_versions(tx, [first, second, "price_unknown"])
    assert prices == {first: Price(3, 1, 7), second: Price(3, 1, 8)}


async def test_a_price_of_old_that_comes_back_is_a_version_of_its_own(bank: Any) -> None:
    versions = [await bank.price("m", 3, 1, output) for output in (7, 8, 7)]

    assert len(set(versions)) == 3
    assert (await in_force(bank))["m"] == versions[-1]


async def test_replicas_that_put_the_same_prices_at_once_make_one_version(bank: Any) -> None:
    versions = await asyncio.gather(*(bank.price("m", 3, 1, 7) for _ in range(8)))

    assert len(set(versions)) == 1


async def test_who_waited_while_the_price_was_put_finds_it(bank: Any) -> None:
    async with bank.db.begin() as tx:
        await tx.execute(select(1))  # its time stands still from here on
        first = await bank.price("m", 3, 1, 7)
        [second] = await price_versions.put(tx, [Wanted("m", Price(3, 1, 7))])

    assert second.version == first


async def test_a_model_cannot_have_two_prices_at_once(bank: Any) -> None:
    twice = [Wanted("m", Price(1, 1, 1)), Wanted("m", Price(2, 2, 2))]

    async with bank.db.begin() as tx:
        with pytest.raises(InvalidRequest):
            await price_versions.put(tx, twice)
