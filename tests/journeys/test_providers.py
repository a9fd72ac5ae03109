"""Upstream providers: what comes of a request when they answer, fail, break off or lie."""

import json
from typing import Any

import httpx
import pytest

from tests.platform import Platform, User, bearer, chat
from vlinders_kit.ids import new_id

from .conftest import INPUT, OUTPUT

WORDS = ("one", " two", " three", " four", " five")
SECRET = "secret of the provider"


class Customer:
    """A new tenant with one API key, and what became of its requests."""

    def __init__(self, platform: Platform, user: User, key: str) -> None:
        self.platform = platform
        self.user = user
        self.headers = bearer(key)

    async def chat(self, model: str, **over: Any) -> httpx.Response:
        body = chat(model, **over)
        return await self.platform.http.post(
            "/v1/chat/completions", json=body, headers=self.headers
        )

    async def record_of(self, answer: httpx.Response) -> dict[str, Any]:
        return await self.user.record_of(answer.headers["X-Request-Id"])


@pytest.fixture
async def customer(platform: Platform) -> Customer:
    user = await platform.sign_up()
    return Customer(platform, user, (await user.key())["key"])


def events(answer: httpx.Response) -> list[Any]:
    """The payloads of a stream; the end as the text that it is."""
    told = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(event) if event != "[DONE]" else event for event in told]


def said(answer: httpx.Response) -> str:
    chunks = [event for event in events(answer) if event != "[DONE]" and "choices" in event]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


async def test_a_provider_gets_its_name_its_key_and_nothing_of_the_client(
    platform: Platform, customer: Customer
) -> None:
    answer = await customer.chat("plain", stream=True, temperature=0.5, user="somebody")

    asked = platform.first.asked["plain-2026"][-1]
    assert answer.status_code == 200
    assert said(answer) == "".join(WORDS)
    assert asked.body["model"] == "plain-2026"
    assert (asked.body["temperature"], asked.body["user"]) == (0.5, "somebody")
    assert asked.headers["Authorization"] == f"Bearer {platform.first.api_key}"
    sent = json.dumps([asked.headers, asked.body])
    assert customer.headers["Authorization"] not in sent
    assert answer.headers["X-Request-Id"] not in sent
    assert "upstream" not in answer.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "trouble",
    [
        {"status": 500, "error": {"error": {"message": SECRET}}},
        {"status": 429, "error": {"error": {"message": SECRET}}},
        {"breaks_after": 0},
    ],
    ids=["fails", "is busy", "is cut off"],
)
async def test_the_second_provider_answers_when_the_first_does_not_begin(
    platform: Platform, customer: Customer, trouble: dict[str, Any], *, stream: bool
) -> None:
    platform.first.plays("ladder-2026", **trouble)

    answer = await customer.chat("ladder", stream=stream)

    assert answer.status_code == 200
    assert SECRET not in answer.text
    asked = platform.second.asked["ladder-2026"][-1]
    assert asked.headers["Authorization"] == f"Bearer {platform.second.api_key}"
    record = await customer.record_of(answer)
    assert record["charged_nanos"] == 7 * INPUT + 5 * OUTPUT
    await customer.user.spent(record["charged_nanos"])


@pytest.mark.parametrize(
    ("model", "trouble"),
    [("breaks", {"breaks_after": 3}), ("errs", {"fails_after": 3})],
)
async def test_a_stream_that_breaks_ends_with_an_error_and_costs_what_came(
    platform: Platform, customer: Customer, model: str, trouble: dict[str, int]
) -> None:
    platform.first.plays(f"{model}-2026", **trouble)

    answer = await customer.chat(model, stream=True)

    last = events(answer)[-1]
    assert said(answer) == "one two three"
    assert last["error"]["code"] == "internal_error"
    assert last["error"]["message"]
    assert SECRET not in answer.text
    record = await customer.record_of(answer)
    assert (record["outcome"], record["estimated"]) == ("failed", True)
    assert record["output_tokens"] == 3
    assert record["charged_nanos"] == record["input_tokens"] * INPUT + 3 * OUTPUT
    await customer.user.spent(record["charged_nanos"])


async def test_what_has_begun_is_not_begun_again_elsewhere(
    platform: Platform, customer: Customer
) -> None:
    platform.first.plays("breaks-at-once-2026", breaks_after=1)
    before = len(platform.second.asked["breaks-at-once-2026"])

    answer = await customer.chat("breaks-at-once", stream=True)

    assert said(answer) == "one"
    assert "error" in events(answer)[-1]
    assert len(platform.second.asked["breaks-at-once-2026"]) == before


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "upstream_status", "statuses", "code"),
    [
        ("refuses", 400, {400}, "invalid_request"),
        ("refuses", 422, {400}, "invalid_request"),
        ("fails", 500, {502}, "internal_error"),
        # Asked once, these are left alone for a while, and then nobody has the model.
        ("throttles", 429, {502, 503}, "internal_error"),
        ("locked", 401, {502, 503}, "internal_error"),
    ],
)
async def test_an_error_of_a_provider_is_told_in_our_words_and_costs_nothing(
    platform: Platform,
    customer: Customer,
    model: str,
    upstream_status: int,
    statuses: set[int],
    code: str,
    *,
    stream: bool,
) -> None:
    error = {"error": {"message": SECRET, "code": "context_length_exceeded"}}
    platform.first.plays(f"{model}-2026", status=upstream_status, error=error)

    answer = await customer.chat(model, stream=stream)

    told = answer.json()
    assert answer.status_code in statuses
    assert told["error"]["code"] == code
    assert told["meta"]["request_id"] == answer.headers["X-Request-Id"]
    for hidden in (SECRET, "planted-key", platform.first.base_url):
        assert hidden not in answer.text
    record = await customer.record_of(answer)
    assert (record["outcome"], record["charged_nanos"]) == ("failed", 0)
    await customer.user.spent(0)


async def test_a_provider_that_does_not_count_is_counted(
    platform: Platform, customer: Customer
) -> None:
    platform.first.plays("silent-on-usage-2026", tells_usage=False)

    answer = await customer.chat("silent-on-usage", stream=True)

    record = await customer.record_of(answer)
    assert (record["output_tokens"], record["estimated"]) == (5, True)
    await customer.user.spent(record["input_tokens"] * INPUT + 5 * OUTPUT)


async def test_a_count_that_cannot_be_is_never_charged(
    platform: Platform, customer: Customer
) -> None:
    lie = {"prompt_tokens": 10**18, "completion_tokens": 10**18, "total_tokens": -1}
    platform.first.plays("wild-2026", usage=lie)

    answer = await customer.chat("wild", max_tokens=20)

    record = await customer.record_of(answer)
    assert record["estimated"]
    assert record["output_tokens"] == 20
    assert record["input_tokens"] < 100
    await customer.user.spent(record["input_tokens"] * INPUT + 20 * OUTPUT)


async def test_a_provider_embeds(customer: Customer) -> None:
    answer = await customer.platform.http.post(
        "/v1/embeddings",
        json={"model": "vectors", "input": ["a", "b"]},
        headers=customer.headers,
    )

    assert [row["embedding"] for row in answer.json()["data"]] == [[0.5, -0.25]] * 2
    await customer.user.spent(3 * INPUT)


async def test_an_id_of_a_request_that_a_client_chose_is_not_believed(customer: Customer) -> None:
    chosen = new_id("req")
    answer = await customer.platform.http.post(
        "/v1/chat/completions",
        json=chat("plain"),
        headers={**customer.headers, "X-Request-Id": chosen},
    )

    assert answer.headers["X-Request-Id"] != chosen
