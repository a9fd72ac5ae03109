"""An authorization server: Authlib's, over HTTP, and from outside like each of the providers.

Codes, clients, redirect URIs, PKCE and ID tokens are Authlib's to check and to make. What is here
is what a provider is otherwise: its paths, how it is asked, and how it answers.
"""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from authlib.common.security import generate_token
from authlib.oauth2.rfc6749 import AuthorizationServer, ClientMixin, OAuth2Request
from authlib.oauth2.rfc6749.errors import InvalidRequestError, OAuth2Error
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import UserInfo
from authlib.oidc.core.grants import OpenIDCode
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from vlinders_auth.oauth_providers import PROVIDERS, Provider

SECRET = "the client's secret"
CODE_LASTS = 60


@dataclass
class Registered(ClientMixin):
    """This platform, as a provider knows it."""

    client_id: str
    redirect_uri: str
    authenticates: str

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        return None  # who does not say it exactly is refused

    def get_allowed_scope(self, scope: str | None) -> str:
        return scope or ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self.redirect_uri

    def check_client_secret(self, client_secret: str) -> bool:
        return hmac.compare_digest(client_secret, SECRET)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == self.authenticates

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


@dataclass
class Code:
    code: str
    client_id: str
    redirect_uri: str
    scope: str
    nonce: str | None
    code_challenge: str | None
    code_challenge_method: str | None
    made_at: float = field(default_factory=time.monotonic)

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> None:
        return None

    get_acr = get_amr = get_auth_time


class Asked(OAuth2Request):
    """A request as Authlib reads it."""

    def __init__(self, method: str, headers: Mapping[str, str], values: dict[str, str]) -> None:
        super().__init__(method, "https://provider.example/", headers=headers)
        self.payload = BasicOAuth2Payload(values)
        self._values = values

    @property
    def args(self) -> dict[str, str]:
        return self._values

    @property
    def form(self) -> dict[str, str]:
        return self._values


class OnlyS256(CodeChallenge):
    """PKCE that nobody may leave out or weaken."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        if not grant.request.payload.data.get("code_challenge_method"):
            raise InvalidRequestError("Missing 'code_challenge_method'")
        super().validate_code_challenge(grant, redirect_uri)


@cache
def rsa_key(kid: str) -> RSAKey:
    """The key with this id that signs ID tokens; to make one takes up to a second."""
    return RSAKey.generate_key(2048, {"use": "sig", "kid": kid}, private=True)


Twist = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class Person:
    """Who sits in front of the browser, as every provider knows him."""

    subject: str = "4711"
    name: str = "Grace Hopper"
    handle: str = "grace"
    email: str = "grace@example.com"
    email_verified: bool = True


class AuthlibServer(AuthorizationServer):  # type: ignore[misc]
    """One provider's authorization server."""

    def __init__(self, client: Registered, provider: Provider, person: Person) -> None:
        super().__init__()
        self.client = client
        self.provider = provider
        self.person = person
        self.codes: dict[str, Code] = {}
        self.tokens: set[str] = set()
        self.key = rsa_key("k1")
        self.signed_with = self.key
        self.claims: Twist = lambda claims: claims
        """Says in ID tokens what should not be there."""
        self.sign = self.signed
        self.register_token_generator("default", BearerTokenGenerator(lambda **_: generate_token()))
        extensions: list[Any] = [OnlyS256()] if provider.pkce else []
        if provider.issuers:
            extensions.append(_id_tokens(self))
        self.register_grant(_grant(self), extensions)

    def signed(self, claims: dict[str, Any], kid: str = "k1") -> str:
        return jwt.encode({"alg": "RS256", "kid": kid}, claims, self.signed_with, ["RS256"])

    def query_client(self, client_id: str) -> Registered | None:
        return self.client if client_id == self.client.client_id else None

    def save_token(self, token: Mapping[str, Any], request: OAuth2Request) -> None:
        self.tokens.add(token["access_token"])

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def create_oauth2_request(self, request: Asked) -> OAuth2Request:
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> web.Response:
        text = json.dumps(body) if isinstance(body, dict) else body
        return web.Response(status=status, text=text, headers=dict(headers))

    def authorize(self, asked: Asked) -> web.Response:
        """The person consents."""
        try:
            grant = self.get_consent_grant(asked, self.person)
        except OAuth2Error as error:
            return self.handle_error_response(asked, error)  # type: ignore[no-any-return]
        return self.create_authorization_response(asked, self.person, grant)  # type: ignore[no-any-return]


def _grant(server: AuthlibServer) -> type[Any]:
    class Grant(AuthorizationCodeGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = (server.client.authenticates,)

        def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
            said = request.payload.data
            server.codes[code] = Code(
                code,
                request.client.client_id,
                said["redirect_uri"],
                request.scope,
                said.get("nonce"),
                said.get("code_challenge"),
                said.get("code_challenge_method"),
            )

        def query_authorization_code(self, code: str, client: Registered) -> Code | None:
            found = server.codes.get(code)
            fresh = found is not None and time.monotonic() - found.made_at < CODE_LASTS
            return found if fresh else None

        def delete_authorization_code(self, code: Code) -> None:
            del server.codes[code.code]

        def authenticate_user(self, code: Code) -> Person:
            return server.person

    return Grant


def _id_tokens(server: AuthlibServer) -> OpenIDCode:
    class IdTokens(OpenIDCode):  # type: ignore[misc]
        def resolve_client_private_key(self, client: Registered) -> RSAKey:
            return server.signed_with

        def get_client_claims(self, client: Registered) -> dict[str, Any]:
            return {"iss": server.provider.issuers[0], "aud": client.client_id}

        def exists_nonce(self, nonce: str, request: OAuth2Request) -> bool:
            return any(code.nonce == nonce for code in server.codes.values())

        def generate_user_info(self, user: Person, scope: str) -> UserInfo:
            return UserInfo(
                sub=user.subject,
                name=user.name,
                email=user.email,
                email_verified=user.email_verified,
            )

        def encode_id_token(self, token: dict[str, Any], request: OAuth2Request) -> str:
            said = jwt.decode(super().encode_id_token(token, request), server.signed_with)
            return server.sign(server.claims(dict(said.claims)))

    return IdTokens(require_nonce=True)


class PlayedProvider:
    """A provider on loopback: `provider` is its row with the addresses of here."""

    def __init__(self, name: str, url: str, redirect_uri: str, person: Person) -> None:
        real = PROVIDERS[name]
        self.name = name
        self.provider = replace(
            real,
            authorize=_here(url, real.authorize),
            token=_here(url, real.token),
            user=tuple(_here(url, each) for each in real.user),
            keys=_here(url, real.keys) if real.keys else "",
        )
        client = Registered(f"client at {name}", redirect_uri, real.authenticates)
        self.server = AuthlibServer(client, real, person)
        self.requests: list[web.Request] = []
        self.instead: Callable[[web.Request], Any] | None = None
        """Answers in its place, where it is set; None is the usual answer."""

    def registered(self) -> dict[str, Any]:
        """The row of the platform's client here, for the file that its settings name."""
        here = self.provider
        row = {"client_id": self.server.client.client_id, "client_secret": SECRET}
        addresses = {"authorize": here.authorize, "token": here.token, "user": here.user}
        return {**row, **addresses, **({"keys": here.keys} if here.keys else {})}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """What the provider answers to anything that is asked of it."""
        self.requests.append(request)
        if self.instead is not None and (other := await self.instead(request)) is not None:
            return other  # type: ignore[no-any-return]
        where = _elsewhere(request.path)
        real = PROVIDERS[self.name]
        if where == real.authorize:
            return self.server.authorize(Asked("GET", request.headers, self._known(request.query)))
        if where == real.token:
            return await self.token(request)
        if where == real.keys:
            return web.json_response(KeySet([self.server.key]).as_dict(private=False))
        urls = [each.partition("?")[0] for each in real.user]
        return self._of_user(request, urls.index(where))

    def _known(self, said: Mapping[str, str]) -> dict[str, str]:
        """Parameters under RFC 6749's names."""
        back = {ours: name for name, ours in PROVIDERS[self.name].names.items()}
        return {back.get(name, name): value for name, value in said.items()}

    async def token(self, request: web.Request) -> web.Response:
        """Its answer to a code."""
        said, headers = await self._asked_for_a_token(request)
        if said is None:
            return self._failed(400, "invalid_request")
        usual = {"grant_type": "authorization_code"}
        asked = Asked("POST", headers, {**usual, **self._known(said)})
        answer = self.server.create_token_response(asked)
        told = json.loads(answer.text)
        if answer.status != 200:
            return self._failed(answer.status, told["error"])
        return web.json_response(self._granted(told))

    async def _asked_for_a_token(
        self, request: web.Request
    ) -> tuple[Mapping[str, str] | None, dict[str, str]]:
        """The parameters, if they came as this provider wants them."""
        kind = request.content_type
        headers = dict(request.headers)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        if self.name == "wechat":
            return (request.query if request.method == "GET" else None), {**headers, **form}
        if self.name in ("feishu", "xiaohongshu"):
            if kind != "application/json":
                return None, headers
            said = await request.json()
            if self.name == "xiaohongshu" and (said := _unsigned(said)) is not None:
                said["redirect_uri"] = self.server.client.redirect_uri  # it does not ask for it
            return said, {**headers, **form}
        if kind != "application/x-www-form-urlencoded":
            return None, headers
        if self.name == "github" and request.headers.get("Accept") != "application/json":
            return None, headers
        said = {name: str(value) for name, value in (await request.post()).items()}
        return said, headers

    def _failed(self, status: int, error: str) -> web.Response:
        match self.name:
            case "github":
                told = "bad_verification_code" if error == "invalid_grant" else error
                return web.json_response({"error": told, "error_description": "…"})
            case "wechat":
                code = 40029 if error == "invalid_grant" else 40013
                body = json.dumps({"errcode": code, "errmsg": error})
                return web.Response(text=body, content_type="text/plain")
            case "feishu":
                code = 20003 if error == "invalid_grant" else 20002
                return web.json_response({"code": code, "error": error}, status=status)
            case "facebook":
                code = (100, 36009) if error == "invalid_grant" else (1, 0)
                said = {"message": error, "code": code[0], "error_subcode": code[1]}
                return web.json_response({"error": said}, status=status)
            case "xiaohongshu":
                return web.json_response({"success": False, "error_code": 10001, "error_msg": "…"})
        return web.json_response({"error": error}, status=status)

    def _granted(self, told: dict[str, Any]) -> dict[str, Any]:
        person = self.server.person
        match self.name:
            case "wechat":
                return {**told, "openid": f"o-{person.subject}", "unionid": person.subject}
            case "feishu":
                return {"code": 0, **told}
            case "xiaohongshu":
                data = {"accessToken": told["access_token"], "sellerId": person.subject}
                return {
                    "success": True,
                    "error_code": 0,
                    "data": {**data, "sellerName": person.name},
                }
        return told

    def _of_user(self, request: web.Request, which: int) -> web.Response:
        person = self.server.person
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.name in ("wechat", "facebook"):
            token = request.query.get("access_token", "")
        proof = hmac.new(SECRET.encode(), token.encode(), hashlib.sha256).hexdigest()
        if token not in self.server.tokens or (
            self.name == "facebook" and request.query.get("appsecret_proof") != proof
        ):
            return web.json_response({"error": "invalid_token", "errcode": 40001}, status=401)
        if which:
            rows = [("old@example.com", False, True), (person.email, True, person.email_verified)]
            names = ("email", "primary", "verified")
            return web.json_response([dict(zip(names, row, strict=True)) for row in rows])
        answers: dict[str, dict[str, Any]] = {
            "github": {"id": int(person.subject), "login": person.handle, "name": person.name},
            "wechat": {
                "openid": f"o-{person.subject}",
                "unionid": person.subject,
                "nickname": person.name,
            },
            "feishu": {
                "code": 0,
                "data": {
                    "open_id": f"ou_{person.subject}",
                    "union_id": person.subject,
                    "name": person.name,
                    "email": person.email,
                },
            },
            "twitter": {
                "data": {"id": person.subject, "name": person.name, "username": person.handle}
            },
            "facebook": {
                "id": person.subject,
                "name": person.name,
                "picture": {"data": {"url": "https://cdn.example.com/grace.png"}},
            },
        }
        return web.json_response(answers[self.name])


def _unsigned(said: dict[str, Any]) -> dict[str, Any] | None:
    """What a call of xiaohongshu's gateway asks for, if its signature is right."""
    query = f"appId={said['appId']}&timestamp={said['timestamp']}&version={said['version']}"
    sign = hashlib.md5(f"{said['method']}?{query}{SECRET}".encode()).hexdigest()
    if said["sign"] != sign or said["method"] != "oauth.getAccessToken":
        return None
    return {"appId": said["appId"], "client_secret": SECRET, "code": said["code"]}


def _here(url: str, real: str) -> str:
    """`https://host/path` at `url`."""
    return f"{url}/{real.removeprefix('https://')}"


def _elsewhere(path: str) -> str:
    return f"https:/{path}"


@asynccontextmanager
async def played(redirect_uri: str, person: Person) -> AsyncIterator[dict[str, PlayedProvider]]:
    """All providers, on one port of loopback; `redirect_uri` has a place for their names."""
    providers: dict[str, PlayedProvider] = {}
    by_host: dict[str, PlayedProvider] = {}

    async def answer(request: web.Request) -> web.StreamResponse:
        return await by_host[request.path.split("/")[1]].answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    for name, real in PROVIDERS.items():
        played = PlayedProvider(name, url, redirect_uri.format(provider=name), person)
        providers[name] = played
        for each in (real.authorize, real.token, *real.user, *filter(None, [real.keys])):
            by_host[urlsplit(each).netloc] = played
    try:
        yield providers
    finally:
        await runner.cleanup()


async def never(_: web.Request) -> None:
    """An answer that does not come."""
    await asyncio.Event().wait()
