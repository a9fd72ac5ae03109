"""Who acts for a resource, by a real Postgres."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from vlinders_gpu_scheduler import ownership
from vlinders_gpu_scheduler.errors import NotActive
from vlinders_gpu_scheduler.ownership import Ownership
from vlinders_kit.db import Database


async def require(db: Database, term: int) -> None:
    async with db.begin() as tx:
        await ownership.require(tx, "fleet", term)


async def let_time_pass(db: Database) -> None:
    """Ownership is judged by the database's clock, so it is the row that moves."""
    async with db.begin() as tx:
        await tx.execute(text("UPDATE owner SET until = until - interval '11 seconds'"))


async def test_the_first_owns_and_the_second_waits(db: Database) -> None:
    first, second = Ownership(db, "fleet", "a"), Ownership(db, "fleet", "b")
    await first.take()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await second.take()


async def test_an_owner_that_does_not_renew_is_followed_in_a_new_term(db: Database) -> None:
    first, second = Ownership(db, "fleet", "a"), Ownership(db, "fleet", "b")
    old = await first.take()
    await let_time_pass(db)

    assert await second.take() > old
    with pytest.raises(NotActive):
        await require(db, old)


async def test_an_owner_that_wakes_up_late_learns_that_it_was_followed(db: Database) -> None:
    first, second = Ownership(db, "fleet", "a"), Ownership(db, "fleet", "b")
    await first.take()
    await let_time_pass(db)
    await second.take()

    await first.keep()

    assert first.term is None


async def test_an_owner_that_was_late_but_not_followed_goes_on(db: Database, until: Any) -> None:
    owner = Ownership(db, "fleet", "a")
    term = await owner.take()
    await let_time_pass(db)
    keeping = asyncio.create_task(owner.keep())

    async def valid() -> bool:
        async with db.begin() as tx:
            return bool(await tx.scalar(text("SELECT until > clock_timestamp() FROM owner")))

    while not await valid():
        await asyncio.sleep(0.01)
    keeping.cancel()
    await require(db, term)


async def test_a_holder_that_comes_again_need_not_wait_for_itself(db: Database) -> None:
    old = await Ownership(db, "fleet", "a").take()

    assert await Ownership(db, "fleet", "a").take() == old + 1


async def test_what_is_given_up_is_taken_at_once(db: Database) -> None:
    first, second = Ownership(db, "fleet", "a"), Ownership(db, "fleet", "b")
    await first.take()

    await first.release()

    assert await second.take() == 2


async def test_nobody_follows_while_a_write_of_the_term_is_under_way(db: Database) -> None:
    first, second = Ownership(db, "fleet", "a"), Ownership(db, "fleet", "b")
    term = await first.take()
    await let_time_pass(db)
    async with db.begin() as tx:
        await ownership.require(tx, "fleet", term)
        following = asyncio.create_task(second.take())
        done, _ = await asyncio.wait([following], timeout=0.2)
        assert not done

    assert await following == term + 1


async def test_an_owner_that_cannot_reach_the_database_goes_on() -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none")
    owner = Ownership(away, "fleet", "a")
    owner.term = 1

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await owner.keep()

    assert owner.term == 1
    await away.close()
