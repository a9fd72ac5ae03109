"""What a browser keeps for us between two requests, and where it is sent."""

from typing import Any

import pytest

from vlinders.auth.v1.oauth_pb2 import BeginOAuthResponse
from vlinders.auth.v1.sessions_pb2 import SignIn
from vlinders_gateway.edge import Rules
from vlinders_gateway.testing import Running, Script, gateway
from vlinders_kit.errors import invalid

pytestmark = pytest.mark.anyio

BEGIN = "/massrouter/api/v1/auth/oauth/github"
FINISH = f"{BEGIN}/callback?code=c&state=s"
ELSEWHERE = "https://github.com/login/oauth/authorize?client_id=1&state=%E4%BD%A0"
RULES = "HttpOnly; SameSite=Lax"


@pytest.fixture(autouse=True)
def answers(script: Script) -> None:
    script.answers["BeginOAuth"] = BeginOAuthResponse(location=ELSEWHERE, browser_token="b-1")
    script.answers["FinishOAuth"] = SignIn(access_token="t")


async def test_a_redirect_says_where_to_and_nothing_else(running: Running) -> None:
    answer = await running.http.get(BEGIN)
    assert (answer.status_code, answer.headers["location"]) == (302, ELSEWHERE)
    assert answer.content == b""
    assert answer.headers["content-length"] == "0"
    assert "content-type" not in answer.headers


@pytest.mark.parametrize(
    ("path", "proto", "cookie"),
    [
        (BEGIN, "", f"browser_token=b-1; Max-Age=600; Path=/massrouter; {RULES}"),
        (BEGIN, "http", f"browser_token=b-1; Max-Age=600; Path=/massrouter; {RULES}"),
        (BEGIN, "https", f"browser_token=b-1; Max-Age=600; Path=/massrouter; {RULES}; Secure"),
        ("/v1/auth/oauth/github", "", f"browser_token=b-1; Max-Age=600; Path=/; {RULES}"),
    ],
)
async def test_a_cookie_is_out_of_reach_of_scripts_and_other_mounts(
    running: Running, path: str, proto: str, cookie: str
) -> None:
    answer = await running.http.get(path, headers={"X-Forwarded-Proto": proto})
    assert answer.headers["set-cookie"] == cookie


async def test_https_is_believed_of_trusted_proxies_alone_or_said_by_a_setting(
    script: Script, valkey: str
) -> None:
    for rules, secure in ((Rules(), False), (Rules(https=True), True)):
        async with gateway(script, valkey, rules=rules) as running:
            answer = await running.http.get(BEGIN, headers={"X-Forwarded-Proto": "https"})
        assert answer.headers["set-cookie"].endswith("; Secure") == secure


async def test_a_host_of_its_own_has_the_cookie_at_the_root(script: Script, valkey: str) -> None:
    rules = Rules(hosts={"api.massrouter.example": "massrouter"})
    async with gateway(script, valkey, rules=rules) as running:
        own = {"Host": "api.massrouter.example"}
        answer = await running.http.get(BEGIN.removeprefix("/massrouter"), headers=own)
    assert "; Path=/; " in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("header", "read"),
    [
        ("browser_token=b-1", "b-1"),
        ("a=1; browser_token=b-1; c=2", "b-1"),
        ("other=b-1", ""),
        ("", ""),
        ("browser_token", ""),
        ("=;;;", ""),
    ],
)
async def test_a_cookie_is_read_where_it_is_asked_for_and_taken_away(
    running: Running, header: str, read: str
) -> None:
    answer = await running.http.get(FINISH, headers={"Cookie": header})
    [request] = running.script.requests("FinishOAuth")
    assert request.browser_token == read
    assert answer.headers["set-cookie"].startswith("browser_token=; Max-Age=0; Path=/massrouter")


async def test_nothing_but_a_cookie_fills_its_field(running: Running) -> None:
    await running.http.get(f"{FINISH}&browser_token=mine")
    [request] = running.script.requests("FinishOAuth")
    assert request.browser_token == ""


async def test_a_cookie_stays_where_its_use_has_failed(running: Running) -> None:
    running.script.answers["FinishOAuth"] = invalid("state", "is not known")
    answer = await running.http.get(FINISH, headers={"Cookie": "browser_token=b-1"})
    assert (answer.status_code, "set-cookie" in answer.headers) == (400, False)


async def test_no_other_answer_sets_one(running: Running, key: str) -> None:
    headers: dict[str, Any] = {"Authorization": f"Bearer {key}", "Cookie": "browser_token=b-1"}
    answer = await running.http.get("/v1/users/me", headers=headers)
    assert "set-cookie" not in answer.headers
