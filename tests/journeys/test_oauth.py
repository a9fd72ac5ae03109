"""Signing in with an account that somebody has elsewhere: through the edge, as his browser does."""

from collections.abc import Mapping
from http.cookies import SimpleCookie
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from services.auth.tests.authorization_server import SECRET, PlayedProvider
from tests.platform import Platform, bearer

DIALECTS = {
    "vlinders": ("/v1", "/vlinders/v1"),
    "vlinders below its mount": ("/vlinders/v1", "/vlinders/v1"),
    "massrouter": ("/massrouter/api/v1", "/massrouter/api/v1"),
}
"""Where a browser begins, and where it comes back to."""


async def sent_away(browser: httpx.AsyncClient, begins: str, name: str) -> str:
    """Where the browser is sent, a cookie with it."""
    sent = await browser.get(f"{begins}/auth/oauth/{name}")
    assert sent.status_code == 302, sent.text
    assert sent.content == b""
    cookie = SimpleCookie(sent.headers["set-cookie"])["browser_token"]
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    return sent.headers["location"]


async def sent_back(there: PlayedProvider, location: str, redirect_uri: str) -> str:
    """Where the provider sends the browser, once somebody has consented."""
    there.server.client.redirect_uri = redirect_uri
    async with httpx.AsyncClient() as outside:
        back = (await outside.get(location)).headers["location"]
    assert back.startswith(f"{redirect_uri}?"), back
    return str(back)


def tokens_of(told: Mapping[str, object]) -> Mapping[str, str]:
    found = told["data"]
    assert isinstance(found, dict)
    return found.get("tokens", found)


@pytest.mark.parametrize("name", ["github", "google", "wechat"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_browser_goes_there_and_comes_back_signed_in(
    platform: Platform,
    oauth_providers: dict[str, PlayedProvider],
    dialect: str,
    name: str,
) -> None:
    begins, returns = DIALECTS[dialect]
    redirect_uri = f"{platform.stack.url}{returns}/auth/oauth/{name}/callback"
    async with httpx.AsyncClient(base_url=platform.stack.url) as browser:
        location = await sent_away(browser, begins, name)
        back = await sent_back(oauth_providers[name], location, redirect_uri)
        said = dict(parse_qsl(urlsplit(back).query))
        platform.secrets |= {SECRET, said["code"], said["state"], browser.cookies["browser_token"]}

        stranger = await platform.http.get(back)
        signed_in = await browser.get(back)
        again = await browser.get(back)

    assert stranger.status_code == again.status_code == 400, stranger.text
    assert signed_in.status_code == 200, signed_in.text
    assert "browser_token=;" in signed_in.headers["set-cookie"]
    tokens = tokens_of(signed_in.json())
    platform.secrets |= {tokens["access_token"], tokens["refresh_token"]}
    me = f"{returns}/users/me"
    profile = await platform.http.get(me, headers=bearer(tokens["access_token"]))
    assert profile.status_code == 200
    assert "@" in profile.json()["data"]["email"]


async def test_an_unknown_provider_and_state_are_mistakes_in_the_words_of_the_dialect(
    platform: Platform,
) -> None:
    for path in ("weibo", "weibo/callback?code=c&state=s", "github/callback?code=c&state=s"):
        told = await platform.http.get(f"/massrouter/api/v1/auth/oauth/{path}")
        assert (told.status_code, told.json()["error"]["code"]) == (400, "ERR_001"), told.text
