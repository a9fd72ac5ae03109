"""What is told as usage is what the engine produced, however and whenever an answer ends."""

import asyncio
import random
import socket
import struct
from typing import Any

import pytest

AWAY = {"fin": None, "rst": struct.pack("ii", 1, 0)}
"""How a client's kernel says that it is gone: by the end of its stream, or by a reset."""


async def test_a_stream_ends_with_usage_and_done(host: Any, numbered: Any, events: Any) -> None:
    async with host(numbered) as here, here.ask("r1", stream=True, max_tokens=5) as answer:
        *chunks, usage, done = await events(answer)

    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == [
        *("1 ", "2 ", "3 ", "4 ", "5 "),
        None,
    ]
    assert usage["choices"] == []
    assert (usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == (7, 5)
    assert done == "[DONE]"


async def test_an_answer_in_one_piece_is_streamed_inside(host: Any, numbered: Any) -> None:
    async with host(numbered) as here, here.ask("r1", max_tokens=3) as answer:
        told = await answer.json()

    [choice] = told["choices"]
    assert choice["message"] == {"role": "assistant", "content": "1 2 3 "}
    assert choice["finish_reason"] == "length"
    assert told["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("counts", ["continuous_usage", "deltas"])
@pytest.mark.parametrize("leaves", ["fin", "rst", "cancel"])
async def test_what_is_counted_of_an_answer_that_is_left_is_what_the_engine_wrote(
    host: Any, numbered: Any, leaves: str, counts: str
) -> None:
    chance = random.Random(7)
    told = "continuous" if counts == "continuous_usage" else "end"
    async with host({**numbered, "counts": counts}) as here:

        async def leave(request_id: str, after: int) -> tuple[int, int]:
            body = {"stream": True, "max_tokens": 100_000, "rate": 2_000, "counts": told}
            async with here.ask(request_id, **body) as answer:
                await _read_tokens(answer, after)
                if leaves == "cancel":
                    ticket = answer.request_info.headers["vlinders-ticket"]
                    assert await here.cancel(request_id, ticket) == 204
                    await answer.read()
                else:
                    _go(answer, AWAY[leaves])
            shown = await here.shown(request_id)
            assert shown["outcome"] == "cancelled"
            return shown["usage"]["completion_tokens"], here.produced(request_id)

        rounds = [0, 1, 5, 50, *(chance.randrange(300) for _ in range(8))]
        counted = [await leave(f"r{n}", after) for n, after in enumerate(rounds)]

    assert [count for count, _ in counted] == [truth for _, truth in counted]


async def test_a_cancelled_stream_still_ends_with_its_usage(
    host: Any, numbered: Any, events: Any
) -> None:
    async with host(numbered) as here:
        body = {"stream": True, "max_tokens": 10_000, "rate": 500}
        async with here.ask("r1", **body) as answer:
            await _read_tokens(answer, 10)
            await here.cancel("r1", answer.request_info.headers["vlinders-ticket"])
            *_, usage, done = await events(answer)
        assert usage["usage"]["completion_tokens"] == here.produced("r1")
        assert done == "[DONE]"


async def test_a_cancel_reaches_an_engine_whose_answer_nobody_reads(
    host: Any, numbered: Any
) -> None:
    async with host(numbered) as here:
        async with here.ask("r1", stream=True, max_tokens=10**6, rate=10**6) as answer:
            await _until_stuck(lambda: here.produced("r1"))
            await here.cancel("r1", answer.request_info.headers["vlinders-ticket"])
            shown = await here.shown("r1")
        assert shown["usage"]["completion_tokens"] == here.produced("r1") < 10**6


async def test_a_cancel_that_is_quicker_than_its_request_stops_it_all_the_same(
    host: Any, numbered: Any, events: Any
) -> None:
    async with host(numbered) as here:
        headers = here.headers("r1", "numbered")
        assert await here.cancel("r1", headers["vlinders-ticket"]) == 404
        assert await here.cancel("r2", "another's") == 404
        body = {"stream": True, "max_tokens": 50, "rate": 500}
        async with here.ask("r1", headers=headers, **body) as answer:
            usage, done = await events(answer)
        async with here.ask("r2", **body) as answer:
            await answer.read()
        assert (usage["usage"]["completion_tokens"], done) == (0, "[DONE]")
        assert (await here.shown("r1"))["outcome"] == "cancelled"
        assert (await here.shown("r2"))["usage"]["completion_tokens"] == 50


async def test_what_an_engine_did_before_its_first_word_is_counted_though_nobody_waits(
    host: Any, numbered: Any
) -> None:
    async with host(numbered) as here:
        body = {"stream": True, "max_tokens": 1_000, "rate": 200, "late": 20}
        headers = here.headers("r1", "numbered")
        asking = asyncio.ensure_future(here.ask("r1", headers=headers, **body).__aenter__())
        while not here.produced("r1"):
            await asyncio.sleep(0.001)
        assert await here.cancel("r1", headers["vlinders-ticket"]) == 204
        (await asking).close()
        shown = await here.shown("r1")
    assert shown["usage"]["completion_tokens"] == here.produced("r1") > 20


async def test_only_the_ticket_that_started_a_request_stops_it(host: Any, numbered: Any) -> None:
    async with host(numbered) as here:
        async with here.ask("r1", stream=True, max_tokens=50, rate=500) as answer:
            assert await here.cancel("r1", here.scheduler.ticket("numbered", "r1", epoch=9)) == 403
            assert await here.cancel("r1", "") == 403
            assert await here.cancel("r2", "") == 404
            await answer.read()
        assert (await here.shown("r1"))["usage"]["completion_tokens"] == 50


async def test_counts_of_an_engine_that_says_nothing_are_marked(host: Any, numbered: Any) -> None:
    async with host(numbered) as here, here.ask("r1", max_tokens=4, counts="none") as answer:
        usage = (await answer.json())["usage"]

    assert (usage["completion_tokens"], usage["estimated"]) == (4, True)


async def test_an_engine_that_dies_in_the_middle_is_told_with_what_it_had_produced(
    host: Any, numbered: Any, events: Any
) -> None:
    async with host({**numbered, "counts": "continuous_usage"}) as here:
        body = {"stream": True, "max_tokens": 10_000, "rate": 1_000, "counts": "continuous"}
        async with here.ask("r1", **body) as answer:
            await _read_tokens(answer, 20)
            _kill_engine(here)
            *_, usage, error = await events(answer)
        counted = usage["usage"]["completion_tokens"]
        # The engine writes a token down before it sends it, and may be killed in between.
        assert here.produced("r1") - 1 <= counted <= here.produced("r1")
        assert error["error"]["code"] == "ENGINE_FAILED"


async def test_an_engine_that_dies_before_its_first_word_is_a_status(
    host: Any, numbered: Any
) -> None:
    async with host(numbered) as here:
        body = {"stream": True, "max_tokens": 1, "rate": 0.01}
        asked = asyncio.create_task(_status(here.ask("r1", **body)))
        await here.scheduler.until(lambda: _running(here))
        await _until_stuck(lambda: (here.folder / "r1").exists())
        _kill_engine(here)
        assert await asked == 502


async def test_an_engine_that_falls_silent_has_failed(
    host: Any, numbered: Any, events: Any
) -> None:
    async with host(numbered, engine_silence_seconds=0.5) as here:
        body = {"stream": True, "max_tokens": 10, "rate": 1_000, "pause_after": 3}
        async with here.ask("r1", **body) as answer:
            *_, usage, error = await events(answer)
    assert usage["usage"]["completion_tokens"] == 3
    assert "silent" in error["error"]["message"]


async def test_what_an_engine_refuses_is_told_in_its_words(host: Any, numbered: Any) -> None:
    async with host(numbered) as here:
        async with here.ask("r1", stream=True, refuse=400) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["message"] == "no"
        async with here.ask("r2", refuse=401) as answer:
            assert answer.status == 502  # the engine's key is not the client's affair


def _running(here: Any) -> list[str]:
    return [
        id
        for load in here.scheduler.all("load")
        for slot in load.slots
        for id in slot.running_request_ids
    ]


async def _status(asked: Any) -> int:
    async with asked as answer:
        return int(answer.status)


async def _read_tokens(answer: Any, count: int) -> None:
    seen = b""
    while seen.count(b'"content"') < count:
        seen += await answer.content.readany()


def _go(answer: Any, linger: bytes | None) -> None:
    """Closes the client's socket, politely or with a reset."""
    kept = answer.connection.transport.get_extra_info("socket")
    if linger is not None:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    answer.close()


async def _until_stuck(look: Any) -> None:
    """Until what is looked at has come, and stays as it is: nothing tells when a pipe is full."""
    before = None
    while not (now := look()) or now != before:
        before = now
        await asyncio.sleep(0.3)


def _kill_engine(here: Any) -> None:
    import psutil

    [engine] = [
        process
        for process in psutil.Process().children(recursive=True)
        if str(here.folder) in process.cmdline()
        and not any("leash" in part for part in process.cmdline())
    ]
    engine.kill()
