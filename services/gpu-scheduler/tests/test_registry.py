"""What is written of workers, by a real Postgres that may be away."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import select, text

from vlinders.gpu_scheduler.v1.events_pb2 import WorkerStateChanged
from vlinders_gpu_scheduler import registry
from vlinders_gpu_scheduler.errors import NotActive, RegistryUnavailable, WorkerDrained
from vlinders_gpu_scheduler.models import Registration
from vlinders_gpu_scheduler.ownership import Ownership
from vlinders_gpu_scheduler.registry import KEPT, Registry
from vlinders_gpu_scheduler.states import Life, Move, State, Timers
from vlinders_gpu_scheduler.workers import Hello, Worker
from vlinders_kit.clock import ManualClock
from vlinders_kit.db import Database
from vlinders_kit.testing import Cluster


@pytest.fixture
async def writer(db: Database, clock: ManualClock) -> AsyncIterator[Registry]:
    async with writing(db, clock) as writer:
        yield writer


@asynccontextmanager
async def writing(db: Database, clock: ManualClock) -> AsyncIterator[Registry]:
    writer = Registry(db, clock, "fleet", await Ownership(db, "fleet", "a").take())
    task = asyncio.create_task(writer.run())
    yield writer
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextmanager
def away(postgres: Cluster, db: Database) -> Iterator[None]:
    """The database refuses everybody, and those who are in are thrown out."""
    name = db.url.rpartition("/")[2]
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        try:
            yield
        finally:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


def worker_of(hello: Hello, epoch: int) -> Worker:
    clock = ManualClock()
    return Worker(hello, epoch, b"key", Life(Timers(), 0), clock.now(), hello.inventory)


async def row_of(db: Database, worker_id: str = "worker_1") -> Registration:
    async with db.begin() as tx:
        return (await tx.scalars(select(Registration).where(Registration.id == worker_id))).one()


async def events_of(db: Database) -> list[WorkerStateChanged]:
    async with db.begin() as tx:
        bodies = await tx.scalars(text("SELECT body FROM outbox ORDER BY seq"))
    return [WorkerStateChanged.FromString(body) for body in bodies]


ONLINE = Move(State.REGISTERING, State.ONLINE, "registered")
DRAINED = Move(State.ONLINE, State.DRAINING, "drained")


async def test_each_registration_has_a_higher_epoch(
    db: Database, writer: Registry, hello: Any
) -> None:
    first = await writer.register(hello())
    second = await writer.register(hello(boot_id="boot_2"))
    other = await writer.register(hello("worker_2"))

    assert first < second < other
    assert (await row_of(db)).epoch == second


async def test_many_at_once_each_get_their_own(writer: Registry, hello: Any) -> None:
    hellos = [hello(f"worker_{number}") for number in range(450)]

    epochs = await asyncio.gather(*(writer.register(each) for each in hellos))

    assert len(set(epochs)) == 450


async def test_a_move_is_written_with_its_event(db: Database, writer: Registry, hello: Any) -> None:
    worker = worker_of(hello(), await writer.register(hello()))

    writer.moved(worker, ONLINE)
    await writer.settled()

    assert (await row_of(db)).state == "ONLINE"
    told = [(event.from_state, event.to_state, event.epoch) for event in await events_of(db)]
    assert told == [
        ("OFFLINE", "REGISTERING", worker.epoch),
        ("REGISTERING", "ONLINE", worker.epoch),
    ]


async def test_a_move_of_an_older_epoch_changes_no_row(
    db: Database, writer: Registry, hello: Any
) -> None:
    old = worker_of(hello(), await writer.register(hello()))
    await writer.register(hello(boot_id="boot_2"))

    writer.moved(old, Move(State.ONLINE, State.OFFLINE, "registered again"))
    await writer.settled()

    assert (await row_of(db)).state == "REGISTERING"


async def test_a_drained_agent_is_refused_until_it_is_restarted(
    writer: Registry, hello: Any
) -> None:
    worker = worker_of(hello(), await writer.register(hello()))
    writer.moved(worker, DRAINED)
    writer.moved(worker, Move(State.DRAINING, State.OFFLINE, "goodbye"))
    await writer.settled()

    with pytest.raises(WorkerDrained):
        await writer.register(hello())

    assert await writer.register(hello(boot_id="boot_2")) > worker.epoch


async def test_without_the_database_nobody_registers_and_what_changed_is_written_later(
    db: Database, postgres: Cluster, writer: Registry, hello: Any
) -> None:
    worker = worker_of(hello(), await writer.register(hello()))
    with away(postgres, db):
        writer.moved(worker, ONLINE)
        with pytest.raises(RegistryUnavailable) as refused:
            await writer.register(hello("worker_2"))
        writer.moved(worker, DRAINED)
    await writer.settled()

    assert refused.value.retry_after is not None
    assert (await row_of(db)).state == "DRAINING"
    assert [event.to_state for event in await events_of(db)] == [
        "REGISTERING",
        "ONLINE",
        "DRAINING",
    ]


async def test_a_term_that_is_over_writes_nothing(
    db: Database, writer: Registry, hello: Any
) -> None:
    worker = worker_of(hello(), await writer.register(hello()))
    await Ownership(db, "fleet", "a").take()

    with pytest.raises(NotActive):
        await writer.register(hello("worker_2"))
    writer.moved(worker, ONLINE)
    await writer.settled()

    assert (await row_of(db)).state == "REGISTERING"


async def test_whoever_waits_when_the_term_ends_is_told(
    db: Database, clock: ManualClock, hello: Any
) -> None:
    async with writing(db, clock) as writer, db.begin() as tx:
        await tx.execute(text("LOCK TABLE registration"))
        waiting = asyncio.create_task(writer.register(hello()))
        await asyncio.sleep(0)
        late = asyncio.create_task(writer.register(hello("worker_2")))
        await asyncio.sleep(0.05)
    with pytest.raises((NotActive, RegistryUnavailable)):
        await waiting
    with pytest.raises((NotActive, RegistryUnavailable)):
        await late


async def test_who_was_offline_for_long_is_forgotten(
    db: Database, clock: ManualClock, writer: Registry, hello: Any
) -> None:
    for worker_id in ("worker_1", "worker_2"):
        worker = worker_of(hello(worker_id), await writer.register(hello(worker_id)))
        if worker_id == "worker_1":
            writer.moved(worker, Move(State.ONLINE, State.OFFLINE, "lease over"))
    await writer.settled()

    async with db.begin() as tx:
        await registry.forget(tx, clock.now() + KEPT * 2)
        left = [row.id for row in await tx.scalars(registry.remembered())]

    assert left == ["worker_2"]
