"""OpenAI's Python SDK, as it comes, with nothing but another address."""

import base64
import struct

import openai
import pytest

from tests.platform import NOBODYS, Platform, User

from .conftest import TRIAL_RATE

MODEL = "vlinders-tiny"
HELLO = [{"role": "user", "content": "Tell me of the sea."}]


@pytest.fixture
async def client(platform: Platform) -> openai.AsyncOpenAI:
    async with platform.sdk(platform.stack.api_key) as client:
        yield client


async def test_lists_and_retrieves_models(client: openai.AsyncOpenAI) -> None:
    models = (await client.models.list()).data

    owners = {model.id: model.owned_by for model in models}
    assert owners[MODEL] == "vlinders"
    assert owners["ladder"] == "first"
    assert await client.models.retrieve(MODEL) in models


async def test_chats(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=12)

    choice = answer.choices[0]
    assert answer.model == MODEL
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= 12


async def test_streams_what_it_would_have_answered_whole(client: openai.AsyncOpenAI) -> None:
    ask = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "temperature": 0, "seed": 7}

    chunks = [chunk async for chunk in await client.chat.completions.create(**ask, stream=True)]
    whole = await client.chat.completions.create(**ask)

    first, *middle, last = [chunk.choices[0] for chunk in chunks]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert (first.delta.role, first.finish_reason) == ("assistant", None)
    assert all(choice.finish_reason is None for choice in middle)
    assert (last.delta.content, last.finish_reason) == (None, whole.choices[0].finish_reason)
    said = "".join(choice.delta.content or "" for choice in (first, *middle))
    assert said == whole.choices[0].message.content
    assert all(chunk.usage is None for chunk in chunks)


async def test_tells_the_usage_of_a_stream_if_asked(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = [chunk async for chunk in stream]

    assert last.choices == []
    assert 0 < last.usage.completion_tokens <= 12
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


async def test_embeds_as_numbers_and_as_base64(client: openai.AsyncOpenAI) -> None:
    ask = {"model": "vlinders-tiny-embedding", "input": ["the sea", "the river"]}

    plain = await client.embeddings.create(**ask, encoding_format="float")
    packed = await client.embeddings.create(**ask, encoding_format="base64")
    usual = await client.embeddings.create(**ask)

    assert [row.index for row in plain.data] == [0, 1]
    for row, coded, read in zip(plain.data, packed.data, usual.data, strict=True):
        raw = base64.b64decode(coded.embedding)
        assert struct.unpack(f"<{len(row.embedding)}f", raw) == pytest.approx(row.embedding)
        assert read.embedding == pytest.approx(row.embedding)
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 0


@pytest.mark.parametrize("key", ["", "sk-of-somebody-else", NOBODYS])
async def test_a_key_that_is_none_is_an_authentication_error(platform: Platform, key: str) -> None:
    async with platform.sdk(key or "-") as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.models.list()

    assert refused.value.status_code == 401


async def test_a_key_without_the_permission_is_a_permission_error(platform: Platform) -> None:
    user = await platform.sign_up()
    key = await user.key("inference:read")

    async with platform.sdk(key["key"]) as client:
        assert (await client.models.list()).data
        with pytest.raises(openai.PermissionDeniedError):
            await client.chat.completions.create(model=MODEL, messages=HELLO)


async def test_an_unknown_model_is_not_found(client: openai.AsyncOpenAI) -> None:
    for call in (
        client.chat.completions.create(model="gpt-99", messages=HELLO),
        client.chat.completions.create(model="gpt-99", messages=HELLO, stream=True),
        client.models.retrieve("gpt-99"),
    ):
        with pytest.raises(openai.NotFoundError):
            await call


async def test_a_request_that_is_wrong_is_a_bad_request(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model=MODEL, messages=HELLO, temperature=3)

    assert refused.value.body["code"] == "invalid_request"
    assert [row["field"] for row in refused.value.body["details"]] == ["temperature"]


@pytest.fixture
async def on_trial(platform: Platform) -> User:
    return await platform.sign_up(plan="trial")


async def test_more_than_the_plan_allows_is_a_rate_limit_error(
    platform: Platform, on_trial: User
) -> None:
    # The API key has a bucket of its own: signing up has used none of it.
    key = await on_trial.key()
    async with platform.sdk(key["key"]) as client:
        for _ in range(TRIAL_RATE):
            await client.models.list()
        with pytest.raises(openai.RateLimitError) as refused:
            await client.models.list()

    assert refused.value.body["code"] == "rate_limit_exceeded"
    assert 1 <= refused.value.body["retry_after"] <= 60
    assert refused.value.response.headers["Retry-After"] == str(refused.value.body["retry_after"])
    assert refused.value.response.headers["X-RateLimit-Remaining"] == "0"
