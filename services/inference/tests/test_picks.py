"""Picks: over one stream while it holds, from the scheduler's last table for a while after."""

import asyncio
from collections.abc import AsyncIterator, Callable, Set
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from vlinders.gpu_scheduler.v1 import picks_pb2 as pb
from vlinders.gpu_scheduler.v1.picks_pb2_grpc import (
    PickServiceServicer,
    add_PickServiceServicer_to_server,
)
from vlinders_inference import picks as module
from vlinders_inference.errors import NoCapacity
from vlinders_inference.picks import Picks, nobody
from vlinders_kit.testing import a_part, served

pytestmark = pytest.mark.anyio


def target(worker_id: str) -> pb.Target:
    return pb.Target(worker_id=worker_id, address="http://127.0.0.1:1", slot_id="s", ticket="t")


def table(
    *entries: tuple[str, int, int], seconds: int = 5, capacity: int | None = None
) -> pb.PickAnswers:
    rows = [
        pb.StandbyTable.Entry(
            model="m",
            target=target(name),
            outstanding=out,
            parallel=parallel,
            capacity=capacity,
        )
        for name, out, parallel in entries
    ]
    return pb.PickAnswers(standby=pb.StandbyTable(entries=rows, lifetime=Duration(seconds=seconds)))


class Scripted(PickServiceServicer):
    """Sends `first`, then answers picks unless `silent`."""

    def __init__(self, first: pb.PickAnswers) -> None:
        self.first = first
        self.messages: list[pb.PickRequests] = []
        self.silent = False
        self.running = AsyncExitStack()
        """The server; closing it is the scheduler's end."""

    async def Pick(
        self, request_iterator: AsyncIterator[pb.PickRequests], context: Any
    ) -> AsyncIterator[pb.PickAnswers]:
        yield self.first
        async for message in request_iterator:
            self.messages.append(message)
            if not self.silent:
                yield pb.PickAnswers(
                    answers=[
                        pb.PickAnswer(request_id=ask.request_id, target=target("asked"))
                        for ask in message.picks
                    ]
                )


@asynccontextmanager
async def picking(
    scheduler: Scripted, suspect: Callable[[Set[int]], None] = nobody
) -> AsyncIterator[Picks]:
    service = "vlinders.gpu_scheduler.v1.PickService"
    async with scheduler.running as stack:
        serving = served(
            "vlinders.gpu_scheduler", (service, add_PickServiceServicer_to_server, scheduler)
        )
        running = await stack.enter_async_context(serving)
        picks = Picks(running.channel(a_part("inference")), suspect)
        task = asyncio.create_task(picks.run())
        await until(lambda: picks.connected and picks.known)
        yield picks
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def pick(picks: Picks, request_id: str = "req_1", *excluded: str) -> str:
    found = await picks.pick(
        request_id, "m", "ten_1", input_tokens=1, output_tokens=1, excluded=excluded
    )
    return found.worker_id


async def test_picks_of_one_turn_of_the_loop_go_in_one_message() -> None:
    scheduler = Scripted(table(("w", 0, 1)))
    async with picking(scheduler) as picks:
        found = await asyncio.gather(*(pick(picks, f"req_{number}") for number in range(50)))

        assert found == ["asked"] * 50
        assert len(scheduler.messages) <= 2


async def test_a_silent_scheduler_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PICK_SECONDS", 0.1)
    scheduler = Scripted(table(("busy", 3, 4), ("free", 1, 4)))
    scheduler.silent = True
    async with picking(scheduler) as picks:
        assert await pick(picks) == "free"


async def test_a_lost_scheduler_is_stood_in_for_by_its_last_table() -> None:
    scheduler = Scripted(table(("a", 0, 2), ("b", 1, 4)))
    async with picking(scheduler) as picks:
        await scheduler.running.aclose()
        await until(lambda: not picks.connected)

        found = [await pick(picks, f"req_{number}") for number in range(5)]

    assert sorted(found) == ["a"] * 2 + ["b"] * 3


async def test_the_table_gives_no_slot_more_than_it_takes() -> None:
    """Else a scheduler that is late would let everything in when there is too much already."""
    scheduler = Scripted(table(("a", 1, 2), ("full", 3, 2), capacity=3))
    async with picking(scheduler) as picks:
        assert await pick(picks, "req_1") == "asked"
        await scheduler.running.aclose()
        await until(lambda: not picks.connected)

        assert [await pick(picks, f"req_{n}") for n in (2, 3)] == ["a", "a"]
        with pytest.raises(NoCapacity):
            await pick(picks, "req_4")

        picks.finished("req_1")  # of another worker: that gives no room
        with pytest.raises(NoCapacity):
            await pick(picks, "req_4")
        picks.finished("req_2")
        assert await pick(picks, "req_4") == "a"


async def test_what_ends_makes_room_where_the_scheduler_put_it() -> None:
    scheduler = Scripted(table(("asked", 0, 1), capacity=1))
    async with picking(scheduler) as picks:
        assert await pick(picks, "req_1") == "asked"
        await scheduler.running.aclose()
        await until(lambda: not picks.connected)
        with pytest.raises(NoCapacity):
            await pick(picks, "req_2")

        picks.finished("req_1")

        assert await pick(picks, "req_2") == "asked"


async def test_what_moves_makes_room_where_it_was() -> None:
    scheduler = Scripted(table(("a", 0, 1), ("b", 0, 1), capacity=1))
    async with picking(scheduler) as picks:
        await scheduler.running.aclose()
        await until(lambda: not picks.connected)

        assert await pick(picks, "req_1") == "a"
        assert await pick(picks, "req_1", "a") == "b"
        with pytest.raises(NoCapacity):
            await pick(picks, "req_1", "a", "b")

        assert {await pick(picks, "req_2"), await pick(picks, "req_3")} == {"a", "b"}


async def test_the_table_does_not_do_for_ever_nor_for_who_has_failed() -> None:
    scheduler = Scripted(table(("a", 0, 2), seconds=0))
    scheduler.first.standby.lifetime.nanos = 300_000_000
    async with picking(scheduler) as picks:
        await scheduler.running.aclose()
        await until(lambda: not picks.connected)
        with pytest.raises(NoCapacity):
            await pick(picks, "req_1", "a")
        await until(lambda: not picks.known)

        with pytest.raises(NoCapacity):
            await pick(picks)


async def test_who_is_suspect_is_told_on_and_forgotten_with_the_stream() -> None:
    told: list[Set[int]] = []
    first = table(("w", 0, 1))
    first.suspects.workers.add(worker_id="w", epoch=7)
    async with picking(Scripted(first), told.append):
        assert told == [{7}]
    async with picking(Scripted(table(("w", 0, 1))), told.append):
        assert told == [{7}, set()]


async def test_an_answer_that_comes_too_late_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler = Scripted(table(("w", 0, 1)))
    async with picking(scheduler) as picks:
        with monkeypatch.context() as hasty:
            hasty.setattr(module, "PICK_SECONDS", 0)
            assert await pick(picks) == "w"

        await until(lambda: any(row.finished_request_ids for row in scheduler.messages))
