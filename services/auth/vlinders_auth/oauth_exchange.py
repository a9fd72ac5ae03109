"""The wire to OAuth providers: where the browser is sent, and what a code that comes back is worth.

Built of Authlib's parts for RFC 6749, 6750 and 7636 and OpenID Connect. Its ready-made clients are
for httpx and requests; this is on aiohttp, as whatever else we call, for they read answers of any
length.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
from authlib.common.urls import add_params_to_uri
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from vlinders_auth.errors import OauthProviderUnavailable, OauthRefused
from vlinders_auth.id_tokens import IdTokens, InvalidIdToken
from vlinders_auth.oauth_providers import Client, Object, Profile, Provider
from vlinders_kit import logs
from vlinders_kit.clock import Clock

SECONDS = 4.0
"""For all that is asked of a provider in one sign-in: less than a caller of ours waits."""

LONGEST_ANSWER = 64 * 1024
"""Bytes. The longest that is known, GitHub's e-mails, has some 100 to each."""

_LONGEST_SUBJECT, _LONGEST_NAME, _LONGEST_URL, _LONGEST_EMAIL = 255, 100, 2048, 254
_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # so that what is counted is what there is
    "User-Agent": "vlinders",  # GitHub refuses who has none
}

log = logs.get(__name__)


@dataclass(frozen=True)
class Grant:
    """What a browser brings back, with what was kept for it."""

    code: str
    verifier: str
    nonce: str
    redirect_uri: str


def destination(
    provider: Provider, client_id: str, *, state: str, verifier: str, nonce: str, redirect_uri: str
) -> str:
    """Where the browser is sent (RFC 6749 4.1.1, 7636 4.3, OpenID Connect Core 3.1.2.1)."""
    asked = {  # in the order in which WeChat compares them
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "response_type": "code",
        "scope": provider.scope,
        "state": state,
    }
    if provider.pkce:
        asked["code_challenge"] = create_s256_code_challenge(verifier)
        asked["code_challenge_method"] = "S256"
    if provider.issuers:
        asked["nonce"] = nonce
    said = _renamed(provider, asked)
    if provider.both_names:
        said = {**asked, **said}
    query = [(name, value) for name, value in said.items() if value]
    return str(add_params_to_uri(provider.authorize, query)) + provider.fragment


class Exchange:
    """Trades codes for who somebody is."""

    def __init__(self, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._id_tokens = IdTokens(self._published, clock)

    async def profile(self, provider: Provider, client: Client, grant: Grant) -> Profile:
        """Who it is that the provider sent here.

        Raises OauthRefused where the provider does not take the code, or its own word is not
        believed; and OauthProviderUnavailable where it does not answer in time or as it should, or
        does not know this platform, which is logged.
        """
        try:
            async with asyncio.timeout(SECONDS):
                told = await self._told(provider, client, grant)
            return _checked(provider.read(*told))
        except InvalidIdToken as error:
            log.warning("id_token_refused", provider=provider.token, why=str(error))
            raise OauthRefused from None
        except (TimeoutError, aiohttp.ClientError) as error:
            raise _unavailable(provider.token, type(error).__name__) from None
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise _unavailable(provider.token, f"{type(error).__name__}: {error}") from None

    async def _told(self, provider: Provider, client: Client, grant: Grant) -> list[Any]:
        """What `provider.read` reads."""
        token = await self._traded(provider, client, grant)
        if provider.issuers:
            claims = await self._id_tokens.claims_of(
                token["id_token"],
                keys=provider.keys,
                issuers=provider.issuers,
                client_id=client.id,
                nonce=grant.nonce,
                access_token=token["access_token"],
            )
            return [claims]
        return [
            token,
            *[await self._of_user(provider, client, token, url) for url in provider.user],
        ]

    async def _traded(self, provider: Provider, client: Client, grant: Grant) -> Any:
        """The provider's answer to the code (RFC 6749 4.1.3)."""
        asked = {
            "code": grant.code,
            "redirect_uri": grant.redirect_uri,
            "code_verifier": grant.verifier if provider.pkce else "",
        }
        if provider.sends == "form":
            body = prepare_token_request("authorization_code", **asked)
            shown = ClientAuth(client.id, client.secret, provider.authenticates)
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            url, headers, body = shown.prepare("POST", provider.token, headers, body)
            return await self._asked(provider, "POST", url, headers, body)
        whole = _with_client(provider, client, asked)
        if provider.shapes is not None:
            whole = provider.shapes(whole, client, self._clock.now())
        if provider.sends == "query":
            return await self._asked(provider, "GET", f"{provider.token}?{urlencode(whole)}")
        headers = {"Content-Type": "application/json; charset=utf-8"}
        return await self._asked(provider, "POST", provider.token, headers, json.dumps(whole))

    async def _of_user(self, provider: Provider, client: Client, token: Object, url: str) -> Any:
        """What `url` says of whoever the access token is of."""
        if provider.shows is not None:
            shown = list(provider.shows(token, client).items())
            return await self._asked(provider, "GET", str(add_params_to_uri(url, shown)))
        headers = {**provider.headers, "Authorization": f"Bearer {token['access_token']}"}
        return await self._asked(provider, "GET", url, headers)

    async def _asked(
        self,
        provider: Provider,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: str | None = None,
    ) -> Any:
        """The answer, if it is a good one."""
        status, answer = await self._json(method, url, headers, body)
        failed = provider.errors(answer) if isinstance(answer, dict) else ()
        if provider.refusals.intersection(failed):
            raise OauthRefused
        if failed or status != 200:
            raise _unavailable(url.partition("?")[0], f"{status} {' '.join(failed)}"[:100])
        return answer

    async def _published(self, url: str) -> Any:
        status, answer = await self._json("GET", url)
        if status != 200:
            raise _unavailable(url, str(status))
        return answer

    async def _json(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: str | None = None,
    ) -> tuple[int, Any]:
        """Status and JSON of an answer; raises ValueError for one that is longer, or none.

        Nothing is followed: who answers with a redirect would have a secret carried elsewhere.
        """
        async with self._http.request(
            method, url, headers={**_HEADERS, **(headers or {})}, data=body, allow_redirects=False
        ) as answer:
            read = bytearray()
            async for piece in answer.content.iter_any():
                read += piece
                if len(read) > LONGEST_ANSWER:
                    raise ValueError("an answer that is too long")
            return answer.status, json.loads(read)


def open_http() -> aiohttp.ClientSession:
    """Connections to providers, which keep no cookies; whoever opens them closes them."""
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)


def _renamed(provider: Provider, asked: Mapping[str, str]) -> dict[str, str]:
    return {provider.names.get(name, name): value for name, value in asked.items()}


def _with_client(provider: Provider, client: Client, asked: Mapping[str, str]) -> Mapping[str, str]:
    shown = {"client_id": client.id, "client_secret": client.secret}
    whole = {"grant_type": "authorization_code", **shown, **asked}
    return _renamed(provider, {name: value for name, value in whole.items() if value})


def _checked(said: Profile) -> Profile:
    """What is kept of it; raises ValueError for a profile of nobody."""
    if not isinstance(said.subject, str) or not 0 < len(said.subject) <= _LONGEST_SUBJECT:
        raise ValueError("no subject")
    fits = said.avatar_url.startswith(("https://", "http://"))
    return Profile(
        said.subject,
        full_name=said.full_name.strip()[:_LONGEST_NAME],
        handle=said.handle,
        email=said.email.lower() if len(said.email) <= _LONGEST_EMAIL else "",
        avatar_url=said.avatar_url if fits and len(said.avatar_url) <= _LONGEST_URL else "",
    )


def _unavailable(where: str, why: str) -> OauthProviderUnavailable:
    log.warning("oauth_provider_failed", where=where, why=why)
    return OauthProviderUnavailable()
