"""OAuth: from a browser that is sent away to a session, for him who comes back, and nobody else."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import grpc
import pytest
from aiohttp import web
from argon2 import PasswordHasher
from sqlalchemy import func, select, update

from vlinders.auth.v1 import accounts_pb2 as accounts_pb
from vlinders.auth.v1 import links_pb2 as links_pb
from vlinders.auth.v1 import oauth_pb2 as pb
from vlinders.auth.v1.accounts_pb2 import ACCOUNT_STATUS_SUSPENDED
from vlinders.auth.v1.events_pb2 import AccountRegistered, Audited
from vlinders.auth.v1.sessions_pb2 import SignIn
from vlinders_auth.models import Account, Mail, OAuthIdentity, OAuthState, Tenant
from vlinders_auth.oauth_exchange import open_http
from vlinders_auth.oauth_providers import PROVIDERS, Client
from vlinders_kit.errors import failure_of

from .authorization_server import SECRET, Person, PlayedProvider, played
from .conftest import PASSWORD, PUBLIC_URL, Auth, anybody, failed, refused, session_of
from .test_links import reset_token

CALLBACK = PUBLIC_URL + "/vlinders/v1/auth/oauth/{provider}/callback"

everywhere = pytest.mark.parametrize("name", sorted(PROVIDERS))
WITH_EMAIL = ("github", "google")


@dataclass
class Browser:
    """Somebody's, with what it keeps between its requests."""

    auth: Auth
    played: dict[str, PlayedProvider]
    person: Person
    http: aiohttp.ClientSession

    async def sent_to(self, name: str, dialect: str = "") -> pb.BeginOAuthResponse:
        request = pb.BeginOAuthRequest(provider=name)
        return await self.auth.oauth(anybody(dialect=dialect)).BeginOAuth(request)

    async def back_from(self, name: str, dialect: str = "") -> pb.FinishOAuthRequest:
        """What the browser asks for when the provider has sent it back."""
        begun = await self.sent_to(name, dialect)
        async with self.http.get(begun.location, allow_redirects=False) as answer:
            back = urlsplit(answer.headers["Location"])
        said = {k: v for k, v in parse_qsl(back.query) if k in ("code", "state", "error")}
        return pb.FinishOAuthRequest(provider=name, browser_token=begun.browser_token, **said)

    async def shows(self, request: pb.FinishOAuthRequest, dialect: str = "") -> SignIn:
        return await self.auth.oauth(anybody(dialect=dialect)).FinishOAuth(request)

    async def signs_in(self, name: str, dialect: str = "") -> SignIn:
        return await self.shows(await self.back_from(name, dialect), dialect)


@pytest.fixture
async def browser(auth: Auth) -> AsyncIterator[Browser]:
    person = Person()
    clients: Any = auth.registry.clients
    providers: Any = auth.registry.providers
    async with open_http() as http, played(CALLBACK, person) as there:
        for name, each in there.items():
            clients[name] = Client(f"client at {name}", SECRET)
            providers[name] = each.provider
        yield Browser(auth, there, person, http)


async def count(auth: Auth, table: type[Any]) -> int:
    async with auth.db.begin() as tx:
        return await tx.scalar(select(func.count()).select_from(table)) or 0


def changed(request: pb.FinishOAuthRequest, **over: str) -> pb.FinishOAuthRequest:
    other = pb.FinishOAuthRequest()
    other.CopyFrom(request)
    other.MergeFrom(pb.FinishOAuthRequest(**{k: v for k, v in over.items() if v}))
    for name in (name for name, value in over.items() if not value):
        other.ClearField(name)  # type: ignore[arg-type]
    return other


@everywhere
async def test_somebody_new_gets_an_account_and_comes_back_to_it(
    browser: Browser, name: str
) -> None:
    first = await browser.signs_in(name)
    again = await browser.signs_in(name)

    assert again.account.id == first.account.id
    assert session_of(again.access_token) != session_of(first.access_token)
    account = first.account
    assert account.full_name == "Grace Hopper"
    assert account.HasField("last_login_at")
    if name in WITH_EMAIL:
        assert (account.email, account.email_verified) == ("grace@example.com", True)
    else:
        assert account.email.startswith(f"{name}-")
        assert account.email.endswith("@users.invalid")
        assert not account.email_verified
    handles = {"github": "grace", "twitter": "grace", "google": "grace"}
    assert account.username == handles.get(name, "gracehopper")


async def test_an_account_is_made_with_a_tenant_of_its_own_and_no_password(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in = await browser.signs_in("github")

    async with browser.auth.db.begin() as tx:
        tenant = await tx.scalar(select(Tenant).where(Tenant.id == signed_in.account.tenant_id))
        kept = await tx.scalar(select(Account.password_hash))
    assert tenant is not None
    assert (tenant.plan, tenant.operator, kept) == ("free", False, "")
    checked: list[str] = []
    verify = PasswordHasher.verify
    monkeypatch.setattr(
        PasswordHasher, "verify", lambda self, *it: checked.append(it[0]) or verify(self, *it)
    )
    for password in (" ", "x", PASSWORD):
        told = await refused(browser.auth.login("grace@example.com", password))
        assert told == "INVALID_CREDENTIALS"
    assert [each.startswith("$argon2id$") for each in checked] == [True] * 3


async def test_what_happened_is_told(browser: Browser) -> None:
    signed_in = await browser.signs_in("github")
    await browser.signs_in("github")

    registered, *told = await browser.auth.published(AccountRegistered, Audited)
    assert registered.account_id == signed_in.account.id  # type: ignore[attr-defined]
    wanted = ["user.register", "oauth.link", "user.login", "user.login"]
    assert [event.action for event in told] == wanted  # type: ignore[attr-defined]
    assert {
        (event.actor_account_id, event.resource_id, event.details["provider"])  # type: ignore[attr-defined]
        for event in told
    } == {(signed_in.account.id, signed_in.account.id, "github")}


async def test_a_session_is_as_its_dialect_has_it(browser: Browser) -> None:
    browser.played[
        "github"
    ].server.client.redirect_uri = f"{PUBLIC_URL}/massrouter/api/v1/auth/oauth/github/callback"

    signed_in = await browser.signs_in("github", "massrouter")

    assert (signed_in.expires_in, signed_in.token_type) == (3600, "bearer")
    assert signed_in.refresh_token


async def test_a_provider_without_email_leaves_its_place_to_the_owner(browser: Browser) -> None:
    auth = browser.auth
    signed_in = await browser.signs_in("wechat")
    me = await auth.user(signed_in)

    request = accounts_pb.UpdateMyAccountRequest(email="grace@navy.example")
    await auth.accounts(me).UpdateMyAccount(request)

    again = await browser.signs_in("wechat")
    assert (again.account.id, again.account.email) == (signed_in.account.id, "grace@navy.example")


async def test_an_address_that_stands_in_gets_no_mail(browser: Browser) -> None:
    me = await browser.auth.user(await browser.signs_in("wechat"))

    request = links_pb.RequestEmailVerificationRequest()
    await browser.auth.links(me).RequestEmailVerification(request)

    assert await count(browser.auth, Mail) == 0


class TestAnEmailThatSomebodyHas:
    async def verified(self, auth: Auth, *, verified: bool) -> str:
        known = await auth.register("grace@example.com")
        async with auth.db.begin() as tx:
            await tx.execute(update(Account).values(email_verified=verified))
        return known.account_id

    @pytest.mark.parametrize("name", WITH_EMAIL)
    async def test_links_where_both_sides_have_verified_it(
        self, browser: Browser, name: str
    ) -> None:
        account_id = await self.verified(browser.auth, verified=True)

        signed_in = await browser.signs_in(name)

        assert signed_in.account.id == account_id
        assert (await browser.auth.login("grace@example.com")).account.id == account_id
        assert await count(browser.auth, Account) == 1

    @pytest.mark.parametrize("name", WITH_EMAIL)
    async def test_is_not_ours_where_we_have_not(self, browser: Browser, name: str) -> None:
        """Else who has registered somebody's address would wait in his account for him."""
        await self.verified(browser.auth, verified=False)

        told = await failed(browser.shows(await browser.back_from(name)))

        assert told.reason == "EMAIL_TAKEN"
        assert [each.field for each in told.violations] == ["email"]
        assert await count(browser.auth, OAuthIdentity) == 0

    @pytest.mark.parametrize("name", WITH_EMAIL)
    async def test_is_not_his_where_the_provider_has_not(self, browser: Browser, name: str) -> None:
        """Else who types somebody's address in there would have his account."""
        account_id = await self.verified(browser.auth, verified=True)
        browser.person.email_verified = False

        signed_in = await browser.signs_in(name)

        assert signed_in.account.id != account_id
        assert signed_in.account.email.endswith("@users.invalid")

    async def test_does_not_move_with_it(self, browser: Browser) -> None:
        first = await browser.signs_in("github")
        browser.person.email = "other@example.com"
        await browser.auth.register("other@example.com")

        assert (await browser.signs_in("github")).account.id == first.account.id

    async def test_joins_two_providers_of_one_person(self, browser: Browser) -> None:
        first = await browser.signs_in("github")

        assert (await browser.signs_in("google")).account.id == first.account.id
        assert await count(browser.auth, OAuthIdentity) == 2

    async def test_is_won_back_without_whoever_linked_a_provider(self, browser: Browser) -> None:
        """He has given his account an address that is not his; its owner resets the password."""
        auth = browser.auth
        squatter = await auth.user(await browser.signs_in("wechat"))
        taken = accounts_pb.UpdateMyAccountRequest(email="ada@example.com")
        await auth.accounts(squatter).UpdateMyAccount(taken)

        token = await reset_token(auth)
        reset = links_pb.ResetPasswordRequest(token=token, new_password=PASSWORD)
        await auth.links().ResetPassword(reset)

        assert (await auth.login("ada@example.com")).account.id == squatter.account_id
        assert (await browser.signs_in("wechat")).account.id != squatter.account_id


async def test_a_disabled_account_is_not_let_in(browser: Browser) -> None:
    await browser.signs_in("github")
    async with browser.auth.db.begin() as tx:
        await tx.execute(update(Account).values(status=ACCOUNT_STATUS_SUSPENDED))

    for name in ("github", "google"):
        assert await refused(browser.shows(await browser.back_from(name))) == "ACCOUNT_DISABLED"


class TestAState:
    async def not_let_in(self, browser: Browser, request: Any, dialect: str = "") -> None:
        told = await failed(browser.shows(request, dialect))
        assert told.reason == "OAUTH_STATE_INVALID"
        assert [each.field for each in told.violations] == ["state"]
        asked = [each.path for each in browser.played["github"].requests]
        assert not any(path.endswith("/access_token") for path in asked)

    async def test_is_good_once(self, browser: Browser) -> None:
        request = await browser.back_from("github")
        await browser.shows(request)

        assert await refused(browser.shows(request)) == "OAUTH_STATE_INVALID"

    async def test_is_used_up_by_a_provider_that_refuses(self, browser: Browser) -> None:
        request = await browser.back_from("github")
        assert await refused(browser.shows(changed(request, code="x"))) == "OAUTH_REFUSED"

        assert await refused(browser.shows(request)) == "OAUTH_STATE_INVALID"

    async def test_of_ten_minutes_ago_is_late(self, browser: Browser) -> None:
        request = await browser.back_from("github")
        browser.auth.clock.advance(timedelta(minutes=10))

        await self.not_let_in(browser, request)

    async def test_of_a_moment_before_is_not(self, browser: Browser) -> None:
        request = await browser.back_from("github")
        browser.auth.clock.advance(timedelta(minutes=10) - timedelta(seconds=1))

        await browser.shows(request)

    async def test_that_nobody_has_made_is_none(self, browser: Browser) -> None:
        request = await browser.back_from("github")

        for state in ("x", request.state[:-1], request.state + "x", request.state.swapcase()):
            await self.not_let_in(browser, changed(request, state=state))

    async def test_of_another_browser_is_none(self, browser: Browser) -> None:
        """A link that somebody sends around signs nobody in as him."""
        mine, his = await browser.back_from("github"), await browser.back_from("github")

        for browser_token in (mine.browser_token, "", "x", his.state):
            await self.not_let_in(browser, changed(his, browser_token=browser_token))
        await browser.shows(his)  # who tried has used nothing up

    async def test_of_another_provider_is_none(self, browser: Browser) -> None:
        request = await browser.back_from("google")

        await self.not_let_in(browser, changed(request, provider="github"))

    async def test_of_another_dialect_is_none(self, browser: Browser) -> None:
        request = await browser.back_from("github")

        await self.not_let_in(browser, request, "massrouter")

    async def test_that_returns_many_times_at_once_opens_one_session(
        self, browser: Browser
    ) -> None:
        request = await browser.back_from("github")

        told = await asyncio.gather(*(attempt(browser, request) for _ in range(20)))

        assert Counter(told) == {"": 1, "OAUTH_STATE_INVALID": 19}

    async def test_that_never_returned_is_deleted(self, browser: Browser) -> None:
        await browser.sent_to("github")
        browser.auth.clock.advance(timedelta(minutes=9))
        await browser.sent_to("google")
        browser.auth.clock.advance(timedelta(minutes=1))

        await browser.auth.upkeep.forget_old()

        async with browser.auth.db.begin() as tx:
            assert (await tx.scalars(select(OAuthState.provider))).all() == ["google"]

    async def test_is_kept_without_what_it_is_shown_with(self, browser: Browser) -> None:
        begun = await browser.sent_to("github")
        said = dict(parse_qsl(urlsplit(begun.location).query))

        async with browser.auth.db.begin() as tx:
            row = (await tx.scalars(select(OAuthState))).one()
        for secret in (said["state"], begun.browser_token):
            assert secret.encode() not in row.sha256 + row.browser_sha256 + row.sealed_verifier
        assert len({said["state"], begun.browser_token, row.nonce}) == 3


async def attempt(browser: Browser, request: pb.FinishOAuthRequest) -> str:
    """The reason why it fails; empty where it does not."""
    try:
        await browser.shows(request)
    except grpc.aio.AioRpcError as error:
        return failure_of(error).reason
    return ""


async def test_somebody_new_in_two_windows_gets_one_account(browser: Browser) -> None:
    requests = [await browser.back_from("wechat") for _ in range(5)]

    signed_in = await asyncio.gather(*(browser.shows(request) for request in requests))

    assert len({each.account.id for each in signed_in}) == 1
    assert await count(browser.auth, Account) == 1


async def test_a_code_that_somebody_else_was_given_is_worth_nothing(browser: Browser) -> None:
    """Nor is one's own, once it is brought into another sign-in: PKCE binds it to its own."""
    mine, his = await browser.back_from("github"), await browser.back_from("github")

    assert await refused(browser.shows(changed(mine, code=his.code))) == "OAUTH_REFUSED"


async def test_an_id_token_of_another_sign_in_is_worth_nothing(browser: Browser) -> None:
    there = browser.played["google"].server
    there.claims = lambda claims: {**claims, "nonce": "of another"}

    assert await refused(browser.shows(await browser.back_from("google"))) == "OAUTH_REFUSED"
    assert await count(browser.auth, Account) == 0


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"error": "access_denied", "code": ""}, "OAUTH_REFUSED"),
        ({"error": "access_denied"}, "OAUTH_REFUSED"),
        ({"code": ""}, "OAUTH_REFUSED"),  # as wechat says that he has declined
        ({"error": "server_error", "code": ""}, "OAUTH_PROVIDER_UNAVAILABLE"),
        ({"error": "temporarily_unavailable", "code": ""}, "OAUTH_PROVIDER_UNAVAILABLE"),
    ],
)
async def test_what_the_provider_says_instead_of_a_code_is_told(
    browser: Browser, said: dict[str, str], reason: str
) -> None:
    request = await browser.back_from("github")

    assert await refused(browser.shows(changed(request, **said))) == reason


async def test_a_provider_that_fails_is_told_as_away_and_leaves_nothing(browser: Browser) -> None:
    async def instead(request: web.Request) -> web.Response:
        return web.Response(status=502)

    request = await browser.back_from("github")
    browser.played["github"].instead = instead

    told = await failed(browser.shows(request))

    assert told.reason == "OAUTH_PROVIDER_UNAVAILABLE"
    assert told.retry_after is not None
    assert await count(browser.auth, Account) == 0


async def test_a_provider_that_nobody_knows_is_an_invalid_request(auth: Auth) -> None:
    for name in ("weibo", "GitHub", "github ", "../github"):
        for call in (
            auth.oauth().BeginOAuth(pb.BeginOAuthRequest(provider=name)),
            auth.oauth().FinishOAuth(pb.FinishOAuthRequest(provider=name, code="c", state="s")),
        ):
            told = await failed(call)
            assert told.reason == "OAUTH_PROVIDER_UNKNOWN"
            assert [each.field for each in told.violations] == ["provider"]
            assert told.status.name == "INVALID_ARGUMENT"


@everywhere
async def test_a_provider_without_a_client_is_not_offered(auth: Auth, name: str) -> None:
    told = await failed(auth.oauth().BeginOAuth(pb.BeginOAuthRequest(provider=name)))

    assert (told.reason, told.status.name) == ("OAUTH_PROVIDER_NOT_CONFIGURED", "UNAVAILABLE")
    assert told.retry_after is None
    assert await count(auth, OAuthState) == 0
