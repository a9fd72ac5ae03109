"""A balance worth so many calls admits exactly so many, whoever asks how often and wherever."""

import statistics
import time
from contextlib import AsyncExitStack

import httpx

from tests.chaos.open_loop import Made, Plan, offered
from tests.chaos.oracle import settle
from tests.chaos.scale import scaled
from tests.chaos.stack import CALLS, GRANT, METERED_TOKENS, Chaos
from tests.platform import User, bearer, chat
from vlinders_kit.testing.figures import Figure

ROUNDS = scaled(1, 20)
AT_ONCE = 200
TRIES = scaled(10, 100)
REFUSED_SECONDS = 1.0


async def test_of_200_calls_at_once_as_many_are_admitted_as_the_balance_is_worth(
    chaos: Chaos, figure: Figure
) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": METERED_TOKENS, "total_tokens": 1_007}
    chaos.platform.first.plays("metered", usage=usage)
    admitted, refusals, left = [], [], []

    for _ in range(ROUNDS):
        user = await chaos.platform.sign_up()
        made = await _all_at_once(chaos, user)
        await settle(chaos, user)
        refusals += [each for each in made if each.status != 200]
        admitted.append(sum(each.whole for each in made))
        left.append(await user.balance())
        records = await user.every("/v1/usage/records")
        assert sum(int(record["charged_nanos"]) for record in records) == GRANT
    audit = await chaos.platform.audit()

    wrong = sum(number != CALLS for number in admitted)
    of = f"{AT_ONCE} at once, 2 gateways, 2 replicas of inference, {ROUNDS} rounds"
    figure("rounds that admitted other than the balance is worth", wrong, must="0", condition=of)
    figure("balance after it", max(left), "nanos", must="0", condition=of)
    figure("sum of the ledger", int(audit["sum_nanos"]), "nanos", must="0", condition=of)
    slowest, of = max(each.seconds for each in refusals), f"slowest of {len(refusals)}, {of}"
    figure("refusal for want of credit", slowest, "s", must="≤ 1 s", condition=of)
    assert set(admitted) == {CALLS}
    assert set(left) == {0}
    assert {each.code for each in refusals} == {"quota_exceeded"}
    assert slowest < 3 * REFUSED_SECONDS
    assert (audit["findings"], int(audit["sum_nanos"])) == ([], 0)


async def test_what_running_requests_hold_is_refused_at_once_wherever_it_lies(
    chaos: Chaos, figure: Figure
) -> None:
    chaos.platform.first.plays("metered", waits_after=1)
    user = await chaos.platform.sign_up()
    headers = bearer((await user.key())["key"])
    body = chat("metered", max_tokens=METERED_TOKENS, stream=True)
    running, took = [], []

    async with AsyncExitStack() as open_streams:
        client = httpx.AsyncClient(base_url=chaos.stack.url, headers=headers, timeout=60)
        http = await open_streams.enter_async_context(client)
        for _ in range(CALLS):
            asking = http.stream("POST", "/v1/chat/completions", json=body)
            answer = await open_streams.enter_async_context(asking)
            assert answer.status_code == 200
            running.append(answer.aiter_lines())  # it leaves once nobody has these
            await anext(running[-1])
        for _ in range(TRIES):
            began = time.monotonic()
            refused = await http.post("/v1/chat/completions", json=body)
            took.append(time.monotonic() - began)
            assert refused.json()["error"]["code"] == "quota_exceeded"
    await settle(chaos, user)

    of = f"{TRIES}, of a balance that streams at two replicas hold"
    figure("refusal, middle", statistics.median(took), "s", must="1 s", condition=of)
    figure("refusal, slowest", max(took), "s", condition=of)
    assert statistics.median(took) < REFUSED_SECONDS


async def _all_at_once(chaos: Chaos, user: User) -> list[Made]:
    """Calls that are let go together, half of them for streams. From a process of its own, and not
    with httpx, whose pool takes a second of the processor to open so many connections."""
    host, _, port = chaos.stack.url.removeprefix("http://").partition(":")
    key = (await user.key())["key"]
    bodies = [chat("metered", max_tokens=METERED_TOKENS, stream=stream) for stream in (True, False)]
    together = 0.001
    told = await offered(Plan(host, int(port), key, bodies, AT_ONCE / together, 0, together))
    assert len(told.made) == AT_ONCE
    return told.made
