"""Bad input: the documented error at once, nothing spent, nobody else bothered."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.platform import GRANT, NOBODYS, Platform, User, bearer, chat, eventually
from vlinders.billing.v1.events_pb2 import PriceChanged
from vlinders_kit import api_keys
from vlinders_kit.bus import open_bus
from vlinders_kit.events import envelope

from .conftest import CALLS, METERED_TOKENS

MEGABYTE = 1024 * 1024
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
async def user(platform: Platform) -> User:
    return await platform.sign_up()


@pytest.fixture(scope="module")
async def key(user: User) -> str:
    return str((await user.key())["key"])


def told(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error, after a look at the whole answer: no more than documented is in it."""
    body = answer.json()
    assert (answer.status_code, body["error"]["code"]) == (status, code), answer.text
    assert body.keys() == {"error", "meta"}
    assert body["error"].keys() <= {"code", "message", "details", "retry_after"}
    assert body["error"]["message"]
    assert body["meta"].keys() == {"request_id", "timestamp"}
    assert body["meta"]["request_id"] == answer.headers["X-Request-Id"]
    error: dict[str, Any] = body["error"]
    return error


def asked(platform: Platform) -> int:
    """Requests that have reached a provider."""
    return sum(
        len(each)
        for upstream in (platform.first, platform.second)
        for each in upstream.asked.values()
    )


async def unspent(platform: Platform, user: User, before: int) -> None:
    assert asked(platform) == before
    assert await user.records() == []
    assert await user.balance() == GRANT


WRONG = [
    ({"model": 7}, ["model"]),
    ({"model": ""}, ["model"]),
    ({"messages": "Hello!"}, ["messages"]),
    ({"messages": []}, ["messages"]),
    ({"messages": None}, ["messages"]),
    ({"messages": ["Hello!"]}, ["messages[0]"]),
    ({"messages": [{"role": "robot", "content": "x"}]}, ["messages[0].role"]),
    ({"messages": [{"role": "user"}]}, ["messages[0].content"]),
    ({"messages": [{"role": "user", "content": 7}]}, ["messages[0].content"]),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        ["messages[0].content[0].type"],
    ),
    ({"temperature": "hot"}, ["temperature"]),
    ({"temperature": 2.1}, ["temperature"]),
    ({"top_p": -0.1}, ["top_p"]),
    ({"stream": "yes"}, ["stream"]),
    ({"max_tokens": 0}, ["max_tokens"]),
    ({"max_tokens": 1.5}, ["max_tokens"]),
    ({"max_tokens": 10**20}, ["max_tokens"]),
    ({"max_tokens": 16_385}, ["max_tokens"]),
    ({"stop": ["a"] * 5}, ["stop"]),
    ({"model": None, "temperature": -1, "stream": 1}, ["model", "stream", "temperature"]),
]


@pytest.mark.parametrize(
    ("over", "fields"), WRONG, ids=[json.dumps(over)[:40] for over, _ in WRONG]
)
async def test_each_field_that_is_wrong_is_named(
    platform: Platform, user: User, key: str, over: dict[str, Any], fields: list[str]
) -> None:
    before = asked(platform)

    body = {**chat("plain"), **over}
    answer = await platform.http.post(CHAT, json=body, headers=bearer(key))

    error = told(answer, 400, "invalid_request")
    assert sorted(row["field"] for row in error["details"]) == fields
    assert all(row["message"] for row in error["details"])
    await unspent(platform, user, before)


def nested(depth: int) -> bytes:
    """A request whose body nests exactly so deep."""
    tools = b'{"a":' * (depth - 2) + b"1" + b"}" * (depth - 2)
    return b'{"model":"plain","messages":[{"role":"user","content":"x"}],"tools":[%s]}' % tools


BROKEN = {
    "nothing": b"",
    "no JSON": b"model=plain",
    "half of it": json.dumps(chat("plain")).encode()[:-1],
    "no object": b'["plain"]',
    "no UTF-8": b'{"model": "\xff"}',
    "a level too deep": nested(65),
    "very deep": b"[" * 100_000,
    "a number too large": b'{"model":"plain","max_tokens":1e999999}',
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_a_body_that_is_no_request_is_refused(
    platform: Platform, user: User, key: str, body: bytes
) -> None:
    before = asked(platform)

    answer = await platform.http.post(CHAT, content=body, headers=bearer(key))

    told(answer, 400, "invalid_request")
    await unspent(platform, user, before)


async def test_a_body_may_nest_64_levels_and_have_10_megabytes(
    platform: Platform, key: str
) -> None:
    text = "x" * (10 * MEGABYTE - len(json.dumps(chat("unknown"))) + len("Hello!"))
    large = json.dumps({"model": "unknown", "messages": [{"role": "user", "content": text}]})
    assert len(large) == 10 * MEGABYTE

    for body in (nested(64).replace(b"plain", b"unknown"), large.encode()):
        answer = await platform.http.post(CHAT, content=body, headers=bearer(key))
        told(answer, 404, "not_found")


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "in chunks"])
async def test_a_body_over_10_megabytes_is_refused(
    platform: Platform, user: User, key: str, *, announced: bool
) -> None:
    before = asked(platform)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * MEGABYTE

    content = b" " * (10 * MEGABYTE + 1) if announced else chunks()
    answer = await platform.http.post(CHAT, content=content, headers=bearer(key))

    told(answer, 413, "invalid_request")
    await unspent(platform, user, before)


async def test_a_model_that_is_unknown_or_of_another_kind_is_told(
    platform: Platform, user: User, key: str
) -> None:
    before = asked(platform)

    for stream in (True, False):
        body = chat("gpt-99", stream=stream)
        told(await platform.http.post(CHAT, json=body, headers=bearer(key)), 404, "not_found")
    answer = await platform.http.post(CHAT, json=chat("vectors"), headers=bearer(key))
    assert told(answer, 400, "invalid_request")["details"][0]["field"] == "model"
    body = {"model": "plain", "input": "x"}
    answer = await platform.http.post("/v1/embeddings", json=body, headers=bearer(key))
    assert told(answer, 400, "invalid_request")["details"][0]["field"] == "model"
    await unspent(platform, user, before)


async def test_a_model_without_a_price_is_never_given_away(
    platform: Platform, user: User, key: str
) -> None:
    await platform.sql(
        "billing",
        "UPDATE price_version SET starts_at = starts_at + interval '1 day'"
        " WHERE model = 'unpriced' RETURNING model",
    )
    bus = open_bus(platform.database_url("bus"), "journeys")
    await bus.send([envelope(PriceChanged(model="unpriced", version="none"))])
    await bus.close()

    async def refused() -> httpx.Response | None:
        answer = await platform.http.post(CHAT, json=chat("unpriced"), headers=bearer(key))
        return answer if answer.status_code != 200 else None

    answer = await eventually(refused)
    assert "price" in told(answer, 400, "invalid_request")["message"]
    before = asked(platform)
    for _ in range(4):  # whichever replica it comes to
        await eventually(refused)
    assert asked(platform) == before


MALFORMED = [
    None,
    "",
    "Bearer",
    "Bearer sk-somebody-elses",
    f"Basic {NOBODYS}",
    NOBODYS,
    f"Bearer {NOBODYS[:-1]}",
    f"Bearer {NOBODYS}0",
    f"Bearer {NOBODYS[:-1]}!",
    "Bearer eyJhbGciOiJub25lIn0.e30.",
    "Bearer " + "eyJ" * 5_000,
    "Bearer ' OR 1=1 --",
]


@pytest.mark.parametrize("credential", MALFORMED, ids=[str(each)[:30] for each in MALFORMED])
async def test_a_credential_that_is_none_costs_no_call_to_auth(
    platform: Platform, credential: str | None
) -> None:
    headers = {} if credential is None else {"Authorization": credential}
    before = await introspections(platform)

    for path in (CHAT, "/v1/embeddings"):
        answer = await platform.http.post(path, json=chat("plain"), headers=headers)
        told(answer, 401, "unauthorized")
    answer = await platform.http.get("/v1/models", headers=headers)

    told(answer, 401, "unauthorized")
    assert await introspections(platform) == before


async def introspections(platform: Platform) -> float:
    """How often auth was asked about credentials."""
    answer = await platform.http.get(
        f"http://{platform.stack.access['parts']['auth'][0]['metrics']}/metrics"
    )
    rows = (row for row in answer.text.splitlines() if 'method="Introspect"' in row)
    return sum(float(row.rpartition(" ")[2]) for row in rows if "served_total" in row)


async def test_a_key_that_nobody_has_is_asked_for_and_refused(platform: Platform) -> None:
    before = await introspections(platform)

    answer = await platform.http.post(CHAT, json=chat("plain"), headers=bearer(api_keys.new()))

    told(answer, 401, "unauthorized")

    async def counted() -> bool:  # after its answer has left
        return await introspections(platform) == before + 1

    await eventually(counted)


async def test_who_has_nothing_left_is_told_so(platform: Platform) -> None:
    poor = await platform.sign_up()
    key = (await poor.key())["key"]
    usage = {"completion_tokens": METERED_TOKENS, "prompt_tokens": 7, "total_tokens": 1_007}
    platform.first.plays("metered", usage=usage)
    body = chat("metered", max_tokens=METERED_TOKENS)
    paid = await asyncio.gather(
        *(platform.http.post(CHAT, json=body, headers=bearer(key)) for _ in range(CALLS))
    )
    assert {answer.status_code for answer in paid} == {200}
    await poor.spent(GRANT)
    before = asked(platform)

    for model in ("metered", "plain", "vlinders-tiny"):
        for stream in (False, True):
            request = chat(model, stream=stream)
            answer = await platform.http.post(CHAT, json=request, headers=bearer(key))
            told(answer, 429, "quota_exceeded")

    assert asked(platform) == before
    assert await poor.balance() == 0
    assert (await platform.audit())["sound"]
