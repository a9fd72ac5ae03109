"""The wire to OAuth providers: each one's own way, and what none of them may get away with."""

import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import aiohttp
import pytest
from aiohttp import web
from joserfc import jwt

from vlinders_auth import id_tokens, oauth_exchange
from vlinders_auth.errors import OauthProviderUnavailable, OauthRefused
from vlinders_auth.oauth_exchange import Exchange, Grant, destination, open_http
from vlinders_auth.oauth_providers import PROVIDERS, Client, Profile
from vlinders_kit.clock import SystemClock

from .authorization_server import SECRET, Person, PlayedProvider, never, played, rsa_key

REDIRECT_URI = "https://platform.example/v1/auth/oauth/{provider}/callback"
VERIFIER = "v" * 43

everywhere = pytest.mark.parametrize("name", sorted(PROVIDERS))


@dataclass
class Wire:
    """Our side, and the providers at the other end."""

    exchange: Exchange
    played: dict[str, PlayedProvider]
    http: aiohttp.ClientSession

    def sent_to(self, name: str, **over: str) -> str:
        """Where the browser is sent."""
        there = self.played[name]
        usual = {"state": "s", "verifier": VERIFIER, "nonce": "n"}
        redirect_uri = REDIRECT_URI.format(provider=name)
        said = {"redirect_uri": redirect_uri, **usual, **over}
        return destination(there.provider, f"client at {name}", **said)

    async def visit(self, url: str) -> tuple[int, dict[str, str]]:
        """What the browser comes back with from there, if it is sent back."""
        async with self.http.get(url, allow_redirects=False) as answer:
            query = urlsplit(answer.headers.get("Location", "")).query
            return answer.status, dict(parse_qsl(query))

    async def grant(self, name: str, **over: str) -> Grant:
        _, said = await self.visit(self.sent_to(name))
        usual = {"verifier": VERIFIER, "nonce": "n"}
        redirect_uri = REDIRECT_URI.format(provider=name)
        return Grant(**{"code": said["code"], "redirect_uri": redirect_uri, **usual, **over})

    async def profile(self, name: str, grant: Grant | None = None, secret: str = SECRET) -> Profile:
        client = Client(f"client at {name}", secret)
        grant = grant or await self.grant(name)
        return await self.exchange.profile(self.played[name].provider, client, grant)


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with open_http() as http, played(REDIRECT_URI, Person()) as providers:
        yield Wire(Exchange(http, SystemClock()), providers, http)


KNOWN: dict[str, Profile] = {
    "github": Profile("4711", "Grace Hopper", "grace", "grace@example.com"),
    "google": Profile("4711", "Grace Hopper", "", "grace@example.com"),
    "wechat": Profile("4711", "Grace Hopper"),
    "feishu": Profile("4711", "Grace Hopper"),
    "twitter": Profile("4711", "Grace Hopper", "grace"),
    "facebook": Profile("4711", "Grace Hopper", avatar_url="https://cdn.example.com/grace.png"),
    "xiaohongshu": Profile("4711", "Grace Hopper"),
}


@everywhere
async def test_a_code_is_worth_a_profile(wire: Wire, name: str) -> None:
    assert await wire.profile(name) == KNOWN[name]


@everywhere
async def test_a_code_is_taken_once(wire: Wire, name: str) -> None:
    grant = await wire.grant(name)
    await wire.profile(name, grant)

    with pytest.raises(REFUSES.get(name, OauthRefused)):
        await wire.profile(name, grant)


REFUSES = {"xiaohongshu": OauthProviderUnavailable}
"""Its codes of errors are not public, so that none is known to be about the code."""


@everywhere
async def test_a_code_that_nobody_has_made_is_refused(wire: Wire, name: str) -> None:
    grant = replace(await wire.grant(name), code="invented")

    with pytest.raises(REFUSES.get(name, OauthRefused)):
        await wire.profile(name, grant)


@everywhere
async def test_a_wrong_secret_is_our_fault_and_not_the_persons(wire: Wire, name: str) -> None:
    with pytest.raises(OauthProviderUnavailable):
        await wire.profile(name, secret="another one")


def test_browsers_are_sent_by_https_with_the_parameters_of_rfc_6749() -> None:
    for name, provider in PROVIDERS.items():
        url = destination(
            provider, "us", state="s", verifier=VERIFIER, nonce="n", redirect_uri="https://x/cb"
        )
        said = parse_qs(urlsplit(url).query)
        assert urlsplit(url).scheme == "https", name
        assert said["response_type"] == ["code"], name
        assert said["state"] == ["s"], name
        own = {ours: said.get(ours) for ours in ("client_id", "redirect_uri")}
        wanted = {"client_id": ["us"], "redirect_uri": ["https://x/cb"]}
        if name == "wechat":
            assert url.endswith("#wechat_redirect")
            assert [*said] == ["appid", "redirect_uri", "response_type", "scope", "state"]
            own["client_id"] = said["appid"]
        assert own == wanted, name
        assert VERIFIER not in url
        challenge = said.get("code_challenge"), said.get("code_challenge_method")
        assert (challenge[1] == ["S256"]) == provider.pkce, name


@pytest.mark.parametrize("url", [u for p in PROVIDERS.values() for u in (p.authorize, p.token)])
def test_every_address_is_encrypted(url: str) -> None:
    assert url.startswith("https://")


NEAR = [
    *(
        f"https://platform.example/v1/auth/oauth/github/callback{end}"
        for end in (
            "/",
            "?",
            "?x=1",
            "#",
            "#x",
            "%20",
            "%2F",
            ".",
            "..",
            "/..",
            "/../callback",
            ";x",
            "&x=1",
            "%00",
            "x",
            "//",
            "/.",
            "?redirect=https://evil.example",
            "@evil.example",
        )
    ),
    *(
        f"https://{host}/v1/auth/oauth/github/callback"
        for host in (
            "platform.example.",
            "platform.example:443",
            "platform.example:8443",
            "PLATFORM.example",
            "evil.example",
            "platform.example.evil.example",
            "evilplatform.example",
            "sub.platform.example",
            "platform.example@evil.example",
            "user@platform.example",
            "user:pw@platform.example",
            "platform.exampl",
            "platform-example",
            "platform%2Eexample",
            "[::1]",
            "127.0.0.1",
            "localhost",
            "xn--pltform-9za.example",
        )
    ),
    *(
        f"https://platform.example{path}"
        for path in (
            "",
            "/",
            "/v1/auth/oauth/github",
            "/v1/auth/oauth/google/callback",
            "/V1/auth/oauth/github/callback",
            "//v1/auth/oauth/github/callback",
            "/v1/auth/oauth/github/Callback",
            "/v1/auth/oauth/../oauth/github/callback",
            "/v1/auth/oauth/github%2Fcallback",
            "/v1/auth/./oauth/github/callback",
        )
    ),
    "http://platform.example/v1/auth/oauth/github/callback",
    "HTTPS://platform.example/v1/auth/oauth/github/callback",
    "javascript:alert(1)",
    "//platform.example/v1/auth/oauth/github/callback",
]


async def test_no_redirect_uri_but_the_exact_one_gets_a_code(wire: Wire) -> None:
    assert len(set(NEAR)) >= 50
    for redirect_uri in NEAR:
        status, said = await wire.visit(wire.sent_to("github", redirect_uri=redirect_uri))
        assert (status, said) == (400, {}), redirect_uri
    assert wire.played["github"].server.codes == {}


@pytest.mark.parametrize("name", sorted(n for n, p in PROVIDERS.items() if p.pkce))
@pytest.mark.parametrize(
    "weaker",
    [
        {"code_challenge": None, "code_challenge_method": None},
        {"code_challenge": VERIFIER, "code_challenge_method": "plain"},
        {"code_challenge": VERIFIER, "code_challenge_method": None},
    ],
)
async def test_who_weakens_pkce_on_the_way_gets_no_code(
    wire: Wire, name: str, weaker: dict[str, str | None]
) -> None:
    sent = urlsplit(wire.sent_to(name))
    said: dict[str, str | None] = {**dict(parse_qsl(sent.query)), **weaker}
    query = urlencode({each: value for each, value in said.items() if value is not None})

    _, back = await wire.visit(sent._replace(query=query).geturl())

    assert "code" not in back
    assert back["error"] == "invalid_request"


@pytest.mark.parametrize("name", sorted(n for n, p in PROVIDERS.items() if p.pkce))
async def test_a_code_that_somebody_else_was_given_is_refused(wire: Wire, name: str) -> None:
    """He has it sent to us in a state of his own: its challenge is of another verifier."""
    injected = replace(await wire.grant(name), verifier="w" * 43)

    with pytest.raises(OauthRefused):
        await wire.profile(name, injected)


class TestAnIdToken:
    """What is wrong with one is not believed, whatever it says otherwise."""

    @pytest.mark.parametrize(
        "claims",
        [
            {"aud": "somebody else"},
            {"aud": ["client at google", "somebody else"]},
            {"aud": "somebody else", "azp": "client at google"},
            {"aud": None},
            {"azp": "somebody else"},
            {"iss": "https://evil.example"},
            {"iss": "https://accounts.google.com/"},
            {"iss": None},
            {"nonce": "another"},
            {"nonce": None},
            {"nonce": ""},
            {"exp": 1_000_000_000},
            {"exp": None},
            {"iat": 9_999_999_999},
            {"iat": None},
            {"nbf": 9_999_999_999},
            {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
            {"sub": None},
        ],
        ids=str,
    )
    async def test_with_such_a_claim_is_refused(self, wire: Wire, claims: dict[str, Any]) -> None:
        def twist(said: dict[str, Any]) -> dict[str, Any]:
            return {k: v for k, v in {**said, **claims}.items() if v is not None}

        wire.played["google"].server.claims = twist

        with pytest.raises(OauthRefused):
            await wire.profile("google")

    @pytest.mark.parametrize("how", ["none", "HS256", "RS512", "its own key", "no key's id"])
    async def test_that_is_signed_so_is_refused(self, wire: Wire, how: str) -> None:
        server = wire.played["google"].server
        server.sign = lambda claims: forged(claims, how)

        with pytest.raises(OauthRefused):
            await wire.profile("google")

    async def test_that_another_key_signed_is_refused(self, wire: Wire) -> None:
        server = wire.played["google"].server
        server.signed_with = rsa_key("another")

        with pytest.raises(OauthRefused):
            await wire.profile("google")

    async def test_of_the_bare_issuer_is_believed(self, wire: Wire) -> None:
        wire.played["google"].server.claims = lambda said: {**said, "iss": "accounts.google.com"}

        assert await wire.profile("google") == KNOWN["google"]

    async def test_whose_email_is_not_verified_names_none(self, wire: Wire) -> None:
        wire.played["google"].server.person.email_verified = False

        assert (await wire.profile("google")).email == ""

    async def test_is_verified_by_keys_that_are_asked_for_once(self, wire: Wire) -> None:
        for _ in range(3):
            await wire.profile("google")

        asked = [each.path for each in wire.played["google"].requests]
        assert sum(path.endswith("/certs") for path in asked) == 1

    async def test_by_a_new_key_has_the_keys_asked_for_again(
        self, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await wire.profile("google")
        server = wire.played["google"].server
        server.key = server.signed_with = rsa_key("k2")
        server.sign = lambda claims: server.signed(claims, "k2")

        with pytest.raises(OauthRefused):
            await wire.profile("google")  # they were asked for just now
        monkeypatch.setattr(id_tokens, "SPARE_SECONDS", 0.0)
        assert await wire.profile("google") == KNOWN["google"]


def forged(claims: dict[str, Any], how: str) -> str:
    """An ID token as verifiers have been taken in by it."""
    published, own = rsa_key("k1"), rsa_key("own")
    header: dict[str, Any] = {"alg": how, "kid": "k1"}
    match how:
        case "none":
            return f"{part(header)}.{part(claims)}."
        case "HS256":
            said = f"{part(header)}.{part(claims)}"
            signature = hmac.digest(published.as_pem(private=False), said.encode(), "sha256")
            return f"{said}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}"
        case "RS512":
            return jwt.encode(header, claims, published, ["RS512"])
        case "its own key":
            header = {"alg": "RS256", "kid": "k1", "jwk": own.as_dict(private=False)}
            return jwt.encode(header, claims, own, ["RS256"])
    return jwt.encode({"alg": "RS256", "kid": "unheard of"}, claims, published, ["RS256"])


def part(said: dict[str, Any]) -> str:
    return urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()


async def test_an_email_of_github_counts_only_where_it_is_verified(wire: Wire) -> None:
    wire.played["github"].server.person.email_verified = False

    assert (await wire.profile("github")).email == ""


Answers = dict[str, Any]


def answering(answer: Answers, where: str = "token") -> Any:
    async def instead(request: web.Request) -> web.Response | None:
        return web.Response(**answer) if where in request.path else None

    return instead


BAD: dict[str, Answers] = {
    "an error of its own": {"status": 500, "text": '{"error": "server_error"}'},
    "an error without words": {"status": 503},
    "too many of us": {"status": 429, "text": "{}"},
    "a redirect": {"status": 307, "headers": {"Location": "https://evil.example/"}},
    "a page": {"text": "<html>", "content_type": "text/html"},
    "nothing": {},
    "no object": {"text": "[]"},
    "no token": {"text": "{}"},
    "a token that is none": {"text": '{"access_token": null, "success": true}'},
    "what is no text": {"body": b"\xff\xfe{}"},
    "a book": {"text": '{"access_token": "' + "x" * 70_000 + '"}'},
}


@everywhere
@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
async def test_a_provider_that_answers_otherwise_is_unavailable(
    wire: Wire, name: str, answer: Answers
) -> None:
    grant = await wire.grant(name)
    path = urlsplit(wire.played[name].provider.token).path
    wire.played[name].instead = answering(answer, path)

    with pytest.raises(OauthProviderUnavailable):
        await wire.profile(name, grant)


@pytest.mark.parametrize("name", sorted(n for n, p in PROVIDERS.items() if p.user))
@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
async def test_a_provider_that_does_not_say_who_it_is_is_unavailable(
    wire: Wire, name: str, answer: Answers
) -> None:
    grant = await wire.grant(name)
    wire.played[name].instead = answering(answer, urlsplit(wire.played[name].provider.user[0]).path)

    with pytest.raises(OauthProviderUnavailable):
        await wire.profile(name, grant)


async def test_nothing_is_asked_for_without_end(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth_exchange, "SECONDS", 0.05)
    grant = await wire.grant("github")
    wire.played["github"].instead = never

    with pytest.raises(OauthProviderUnavailable):
        await wire.profile("github", grant)


@pytest.mark.parametrize(("more", "taken"), [(1_000, True), (70_000, False)])
async def test_an_answer_is_read_up_to_a_length(wire: Wire, more: int, *, taken: bool) -> None:
    there = wire.played["github"]

    async def padded(request: web.Request) -> web.Response | None:
        if not request.path.endswith("/access_token"):
            return None
        answer = await there.token(request)
        return web.Response(text=f"{answer.text}{' ' * more}")

    there.instead = padded

    if taken:
        assert await wire.profile("github") == KNOWN["github"]
    else:
        with pytest.raises(OauthProviderUnavailable):
            await wire.profile("github")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_carries_a_secret_elsewhere(wire: Wire, status: int) -> None:
    elsewhere = wire.played["facebook"]

    async def instead(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": elsewhere.provider.token})

    grant = await wire.grant("github")
    wire.played["github"].instead = instead

    with pytest.raises(OauthProviderUnavailable):
        await wire.profile("github", grant)
    assert elsewhere.requests == []


async def test_a_provider_that_is_not_there_is_unavailable(wire: Wire) -> None:
    grant = await wire.grant("github")
    there = wire.played["github"]
    there.provider = replace(there.provider, token="http://127.0.0.1:1/token")

    with pytest.raises(OauthProviderUnavailable):
        await wire.profile("github", grant)


async def test_what_is_kept_of_a_profile_fits(wire: Wire) -> None:
    wire.played["github"].server.person.name = " " + "é" * 200

    assert (await wire.profile("github")).full_name == "é" * 100
