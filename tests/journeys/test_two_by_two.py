"""Two gateways, two replicas of inference: what holds for one process holds for all together."""

import asyncio

import httpx

from tests.platform import GRANT, Platform, bearer, chat
from vlinders_billing.ledger import wallet_of

from .conftest import CALLS, METERED_TOKENS, TRIAL_RATE

AT_ONCE = 200


async def test_a_balance_worth_so_many_calls_admits_exactly_those_of_200_at_once(
    platform: Platform,
) -> None:
    user = await platform.sign_up()
    key = await user.key()
    usage = {"prompt_tokens": 7, "completion_tokens": METERED_TOKENS, "total_tokens": 1_007}
    platform.first.plays("metered", usage=usage)
    limits = httpx.Limits(max_connections=None)

    async def call(client: httpx.AsyncClient, number: int) -> httpx.Response:
        body = chat("metered", max_tokens=METERED_TOKENS, stream=number % 2 == 0)
        return await client.post("/v1/chat/completions", json=body, headers=bearer(key["key"]))

    async with httpx.AsyncClient(base_url=platform.stack.url, limits=limits, timeout=60) as client:
        answers = await asyncio.gather(*(call(client, number) for number in range(AT_ONCE)))

    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(answers) - len(refused) == CALLS
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {
        (429, "quota_exceeded")
    }
    await user.spent(GRANT)
    assert len(await user.records()) == CALLS
    assert (await platform.audit())["sound"]


async def test_a_limit_is_one_limit_on_all_gateways(platform: Platform) -> None:
    key = await (await platform.sign_up(plan="trial")).key()

    async with platform.on_each_gateway() as gateways:
        answers = [
            await gateway.get("/v1/models", headers=bearer(key["key"])) for gateway in gateways * 6
        ]

    passed = [answer for answer in answers if answer.status_code == 200]
    assert len(passed) == TRIAL_RATE
    for answer in answers:
        assert answer.headers["X-RateLimit-Limit"] == str(TRIAL_RATE)
    for answer in answers[TRIAL_RATE:]:
        assert answer.status_code == 429
        assert answer.headers["Retry-After"] == str(answer.json()["error"]["retry_after"])


async def test_requests_of_both_gateways_are_answered_by_both_replicas(platform: Platform) -> None:
    user = await platform.sign_up()
    key = await user.key()

    async with platform.on_each_gateway() as gateways:
        answers = await asyncio.gather(
            *(
                gateway.post("/v1/chat/completions", json=chat("plain"), headers=bearer(key["key"]))
                for gateway in gateways * 10
            )
        )

    assert {answer.status_code for answer in answers} == {200}
    holders = "SELECT DISTINCT holder FROM lease WHERE account_id = :wallet"
    assert len(await platform.sql("billing", holders, wallet=wallet_of(user.tenant_id))) == 2
