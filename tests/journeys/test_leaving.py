"""Clients that leave in the middle: they are charged what the engine has produced, and it stops."""

import asyncio

import anyio.to_thread
import httpx
import pytest

from tests.platform import Platform, User, bearer, chat, eventually

from .conftest import INPUT, OUTPUT

LONG = 2_000
ENDLESS = {"max_tokens": LONG, "ignore_eos": True}
"""An answer that the engine does not end before it must, and that nobody waits for."""


async def leave(platform: Platform, key: str, model: str, after: int) -> str:
    """Reads so many events of a stream, then closes the connection; the id of the request."""
    body = chat(model, stream=True, **ENDLESS)
    async with (
        httpx.AsyncClient(base_url=platform.stack.url, timeout=30) as client,
        client.stream("POST", "/v1/chat/completions", json=body, headers=bearer(key)) as answer,
    ):
        assert answer.status_code == 200
        events = 0
        async for line in answer.aiter_lines():
            events += line.startswith("data: ")
            if events >= after:
                break
        return answer.headers["X-Request-Id"]


@pytest.fixture
async def user(platform: Platform) -> User:
    return await platform.sign_up()


@pytest.mark.parametrize("after", [1, 2, 40])
async def test_who_leaves_is_charged_what_the_workers_engine_produced(
    platform: Platform, user: User, after: int
) -> None:
    key = await user.key()

    request_id = await leave(platform, key["key"], "vlinders-tiny", after)

    record = await user.record_of(request_id)
    produced = (await platform.produced(request_id))["usage"]
    prompt = record["input_tokens"] + record["cached_input_tokens"]
    assert (record["outcome"], record["estimated"]) == ("cancelled", False)
    assert (prompt, record["output_tokens"]) == (
        produced["prompt_tokens"],
        produced["completion_tokens"],
    )
    assert record["output_tokens"] < LONG
    await user.spent(record["charged_nanos"])
    assert record["charged_nanos"] == prompt * 100 + record["output_tokens"] * 200


async def test_who_leaves_before_the_answer_is_charged_what_the_engine_produced(
    platform: Platform, user: User
) -> None:
    key = await user.key()
    body = chat("vlinders-tiny", **ENDLESS)

    async with httpx.AsyncClient(base_url=platform.stack.url) as client:
        call = client.post("/v1/chat/completions", json=body, headers=bearer(key["key"]))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.2)

    (record,) = await eventually(user.records)
    produced = (await platform.produced(record["request_id"]))["usage"]
    assert record["outcome"] == "cancelled"
    assert record["output_tokens"] == produced["completion_tokens"] < LONG
    await user.spent(record["charged_nanos"])


async def test_who_leaves_a_provider_is_charged_what_came(platform: Platform, user: User) -> None:
    key = await user.key()
    platform.first.plays("left-2026", waits_after=3)

    request_id = await leave(platform, key["key"], "left", 4)

    asked = platform.first.asked["left-2026"][-1]
    # The provider was told: its connection is closed.
    assert await anyio.to_thread.run_sync(asked.ended.wait, 10)
    record = await user.record_of(request_id)
    assert (record["outcome"], record["estimated"]) == ("cancelled", True)
    assert record["output_tokens"] == asked.said == 3
    await user.spent(record["input_tokens"] * INPUT + 3 * OUTPUT)


async def test_many_who_leave_leave_nothing_held(platform: Platform, user: User) -> None:
    key = await user.key()

    ids = await asyncio.gather(
        *(leave(platform, key["key"], "vlinders-tiny", 1 + number) for number in range(12))
    )

    charged = [(await user.record_of(id))["charged_nanos"] for id in ids]
    produced = [(await platform.produced(id))["usage"]["completion_tokens"] for id in ids]
    assert all(0 < tokens < LONG for tokens in produced)
    await user.spent(sum(charged))
    assert (await platform.audit())["sound"]
