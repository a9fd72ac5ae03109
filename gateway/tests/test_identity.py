"""Credential → caller: who is asked when, what is believed how long, and what ends it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.message import Message

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1 import events_pb2 as events
from vlinders.auth.v1.accounts_pb2 import Account, SetAccountStatusRequest
from vlinders.auth.v1.api_keys_pb2 import RevokeApiKeyRequest, RevokeApiKeyResponse
from vlinders.auth.v1.identity_pb2 import IntrospectResponse, ReportKeyUseResponse
from vlinders.auth.v1.sessions_pb2 import LogoutRequest, LogoutResponse
from vlinders_gateway.identity import LIFETIME, Identities
from vlinders_gateway.principals import Principal
from vlinders_gateway.rates import HOUR, Rate
from vlinders_gateway.refusals import (
    AccountDisabled,
    ApiKeyExpired,
    IdentityUnavailable,
    InvalidCredential,
    TokenExpired,
)
from vlinders_gateway.testing import Script, services, token_keys
from vlinders_gateway.tokens import Keys, Tokens
from vlinders_kit import api_keys
from vlinders_kit.clock import ManualClock
from vlinders_kit.errors import AppError, PermissionDenied, Unauthenticated, Unavailable
from vlinders_kit.policies import CredentialRequired
from vlinders_kit.testing import a_user, an_api_key

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(moment=datetime.now(UTC))


@pytest.fixture
async def identities(script: Script, clock: ManualClock) -> AsyncIterator[Identities]:
    async with services(script) as parts:
        auth = parts["vlinders.auth"].channel()
        verifier = Tokens(Keys(auth, clock), issuer="vlinders", audience="vlinders", clock=clock)
        yield Identities(auth, verifier, clock=clock)


def shown(key: str) -> bytes:
    return f"Bearer {key}".encode()


def told_of(principal: Principal) -> Caller:
    """The caller as auth told him: without the dialect that the gateway adds."""
    told = Caller()
    told.CopyFrom(principal.caller)
    told.ClearField("dialect")
    return told


def says(identities: Identities, event: Message) -> None:
    """Auth has said this, on the bus."""
    identities.hear(event.DESCRIPTOR.full_name, event.SerializeToString())


async def test_auth_is_asked_once_for_what_it_has_told(
    identities: Identities, script: Script
) -> None:
    who = an_api_key()
    key = script.admit(who)

    assert identities.known(shown(key), "vlinders") is None
    first = await identities.resolve(shown(key), "vlinders")
    assert told_of(first) == who
    assert identities.known(shown(key), "vlinders") is first
    assert (await identities.resolve(f"bearer {key}".encode(), "vlinders")) is first
    assert len(script.requests("Introspect")) == 1


async def test_many_who_show_one_key_at_once_are_one_question(
    identities: Identities, script: Script
) -> None:
    key = script.key()

    found = await asyncio.gather(*(identities.resolve(shown(key), "vlinders") for _ in range(50)))

    assert len(set(map(id, found))) == 1
    assert len(script.requests("Introspect")) == 1


async def test_one_who_leaves_does_not_take_the_answer_from_the_others(
    identities: Identities, script: Script
) -> None:
    key = script.key()
    leaves = asyncio.create_task(identities.resolve(shown(key), "vlinders"))
    stays = asyncio.create_task(identities.resolve(shown(key), "vlinders"))
    await asyncio.sleep(0)

    leaves.cancel()

    assert (await stays).caller.api_key_id


@pytest.mark.parametrize(
    "credential",
    [
        b"Bearer vlinders_sk_live_abc",
        b"Bearer vlinders_sk_live_" + b"0" * 38,
        b"Bearer sk-proj-0123456789",
        b"Bearer ",
        b"Bearer a.b.c",
        b"Bearer eyJhbGciOiJub25lIn0.e30.",
        b"Bearer eyJ" + b"A" * 10_000 + b".e30.AA",
        b"Basic dXNlcjpwYXNz",
        b"vlinders_sk_live_",
        b"\xff\xfe",
    ],
)
async def test_what_cannot_be_a_credential_costs_no_call(
    identities: Identities, script: Script, credential: bytes
) -> None:
    with pytest.raises(InvalidCredential):
        await identities.resolve(credential, "vlinders")
    assert script.asked == []


async def test_a_key_with_a_slip_costs_no_call(identities: Identities, script: Script) -> None:
    key = script.key()
    slipped = key[:-1] + ("a" if key[-1] != "a" else "b")

    with pytest.raises(InvalidCredential):
        await identities.resolve(shown(slipped), "vlinders")
    assert script.asked == []


async def test_nothing_shown_is_asked_for(identities: Identities) -> None:
    with pytest.raises(CredentialRequired):
        await identities.resolve(None, "vlinders")


async def test_an_unknown_key_is_asked_about_once_in_a_while(
    identities: Identities, script: Script, clock: ManualClock
) -> None:
    key = api_keys.new()
    for _ in range(3):
        with pytest.raises(InvalidCredential):
            await identities.resolve(shown(key), "vlinders")
    assert len(script.requests("Introspect")) == 1

    clock.advance(11)
    with pytest.raises(InvalidCredential):
        await identities.resolve(shown(key), "vlinders")
    assert len(script.requests("Introspect")) == 2


async def test_an_answer_is_believed_for_half_a_minute(
    identities: Identities, script: Script, clock: ManualClock
) -> None:
    key = script.key()
    await identities.resolve(shown(key), "vlinders")

    clock.advance(29)
    assert identities.known(shown(key), "vlinders") is not None
    clock.advance(1)
    assert identities.known(shown(key), "vlinders") is None
    await identities.resolve(shown(key), "vlinders")
    assert len(script.requests("Introspect")) == 2


async def test_an_answer_is_believed_no_longer_than_the_key_lasts(
    identities: Identities, script: Script, clock: ManualClock
) -> None:
    ends = IntrospectResponse(caller=an_api_key())
    ends.expires_at.FromDatetime(clock.now() + timedelta(seconds=5))
    key = api_keys.new()
    script.credentials[api_keys.digest(key)] = ends
    await identities.resolve(shown(key), "vlinders")

    clock.advance(5.1)

    assert identities.known(shown(key), "vlinders") is None


def voiding(who: Any) -> list[Any]:
    return [
        events.ApiKeyRevoked(api_key_id=who.api_key_id, account_id=who.account_id),
        events.AccountDisabled(account_id=who.account_id),
        events.AccountEnabled(account_id=who.account_id),
        events.RolesChanged(account_id=who.account_id, tenant_id=who.tenant_id),
        events.TenantPlanChanged(tenant_id=who.tenant_id, plan="pro"),
    ]


@pytest.mark.parametrize("number", range(5))
async def test_what_auth_voids_is_forgotten_at_once(
    identities: Identities, script: Script, number: int
) -> None:
    who = an_api_key()
    key, other = script.admit(who), script.key()
    await identities.resolve(shown(key), "vlinders")
    kept = await identities.resolve(shown(other), "vlinders")

    says(identities, voiding(who)[number])

    assert identities.known(shown(key), "vlinders") is None
    assert identities.known(shown(other), "vlinders") is kept


async def test_events_that_void_nothing_are_passed_over(identities: Identities) -> None:
    identities.hear("vlinders.auth.v1.AccountRegistered", b"")
    identities.hear("vlinders.auth.v1.SomethingNew", b"\xff")


async def test_an_answer_that_a_revocation_overtook_is_asked_for_again(
    identities: Identities, script: Script
) -> None:
    """The event came while the answer was on its way: the answer may be of before."""
    who = an_api_key()
    key = script.admit(who)
    revoked = events.ApiKeyRevoked(api_key_id=who.api_key_id)
    answer = script.introspect

    async def overtaken(request: Any) -> IntrospectResponse:
        told = await answer(request)
        script.credentials.clear()
        says(identities, revoked)
        return told

    script.introspect = overtaken  # type: ignore[method-assign]

    with pytest.raises(InvalidCredential):
        await identities.resolve(shown(key), "vlinders")
    assert identities.known(shown(key), "vlinders") is None


async def test_whoever_revokes_a_key_finds_it_void_with_the_next_request(
    identities: Identities, script: Script
) -> None:
    who = an_api_key()
    key = script.admit(who)
    await identities.resolve(shown(key), "vlinders")

    asked = RevokeApiKeyRequest(api_key_id=who.api_key_id)
    identities.heed("RevokeApiKey", asked, RevokeApiKeyResponse(), a_user())

    assert identities.known(shown(key), "vlinders") is None


@pytest.mark.parametrize("operation", ["Logout", "ChangePassword"])
async def test_whoever_signs_out_or_changes_his_password_finds_it_so_with_the_next_request(
    identities: Identities, script: Script, operation: str
) -> None:
    who = a_user()
    token = token_keys(script).sign(who)
    script.credentials[who.session_id] = IntrospectResponse(caller=who)
    found = await identities.resolve(shown(token), "vlinders")

    identities.heed(operation, LogoutRequest(), LogoutResponse(), found.caller)

    assert identities.known(shown(token), "vlinders") is None


@pytest.mark.parametrize("operation", ["SetAccountStatus", "UpdateAccount", "SetMemberRole"])
async def test_whoever_changes_what_another_may_do_finds_it_so_with_the_next_request(
    identities: Identities, script: Script, operation: str
) -> None:
    who = an_api_key()
    key, other = script.admit(who), script.key()
    await identities.resolve(shown(key), "vlinders")
    kept = await identities.resolve(shown(other), "vlinders")

    identities.heed(operation, SetAccountStatusRequest(), Account(id=who.account_id), a_user())

    assert identities.known(shown(key), "vlinders") is None
    assert identities.known(shown(other), "vlinders") is kept


async def test_without_auth_the_known_go_on_and_the_unknown_are_told_to_wait(
    identities: Identities, script: Script, clock: ManualClock
) -> None:
    class Down(Unavailable):
        """Down."""

    known, unknown = script.key(), api_keys.new()
    await identities.resolve(shown(known), "vlinders")
    for digest in script.credentials:
        script.credentials[digest] = Down()
    script.credentials[api_keys.digest(unknown)] = Down()

    clock.advance(29)
    assert (await identities.resolve(shown(known), "vlinders")).caller.api_key_id
    with pytest.raises(IdentityUnavailable):
        await identities.resolve(shown(unknown), "vlinders")
    clock.advance(1)
    with pytest.raises(IdentityUnavailable):
        await identities.resolve(shown(known), "vlinders")


async def test_a_connection_to_auth_that_breaks_is_no_refusal(
    identities: Identities, script: Script
) -> None:
    class Broke(Unavailable):
        """The connection broke."""

    key = script.key()
    known = script.credentials.pop(api_keys.digest(key))
    script.credentials[api_keys.digest(key)] = Broke()

    async def mend() -> None:
        while not script.requests("Introspect"):
            await asyncio.sleep(0.001)
        script.credentials[api_keys.digest(key)] = known

    mending = asyncio.create_task(mend())
    assert await identities.resolve(f"Bearer {key}".encode(), "vlinders")
    await mending
    assert len(script.requests("Introspect")) == 2


class Disabled(PermissionDenied):
    """The account is deactivated."""


class Expired(Unauthenticated):
    """The API key has expired."""


Disabled.reason, Expired.reason = "ACCOUNT_DISABLED", "API_KEY_EXPIRED"


@pytest.mark.parametrize(
    ("error", "told"), [(Disabled(), AccountDisabled), (Expired(), ApiKeyExpired)]
)
async def test_why_auth_refuses_a_credential_is_told(
    identities: Identities, script: Script, error: AppError, told: type[AppError]
) -> None:
    key = api_keys.new()
    script.credentials[api_keys.digest(key)] = error

    for _ in range(2):
        with pytest.raises(told) as refused:
            await identities.resolve(shown(key), "vlinders")
        assert refused.value.reason == error.reason
    assert len(script.requests("Introspect")) == 1


async def test_an_account_that_is_enabled_again_is_let_in_at_once(
    identities: Identities, script: Script
) -> None:
    who, key, unknown = an_api_key(), api_keys.new(), api_keys.new()
    script.credentials[api_keys.digest(key)] = Disabled()
    for shows in (key, unknown):
        with pytest.raises((AccountDisabled, InvalidCredential)):
            await identities.resolve(shown(shows), "vlinders")
    script.credentials[api_keys.digest(key)] = IntrospectResponse(caller=who)

    says(identities, events.AccountEnabled(account_id=who.account_id))

    assert told_of(await identities.resolve(shown(key), "vlinders")) == who
    with pytest.raises(InvalidCredential):
        await identities.resolve(shown(unknown), "vlinders")
    assert len(script.requests("Introspect")) == 3  # what nobody has is not asked about again


async def test_a_refusal_that_was_overtaken_is_not_remembered(
    identities: Identities, script: Script
) -> None:
    """The account was enabled while auth's no was on its way: the next request asks again."""
    who, key = an_api_key(), api_keys.new()
    answer = script.introspect

    async def overtaken(request: Any) -> IntrospectResponse:
        if api_keys.digest(key) in script.credentials:
            return await answer(request)
        script.credentials[api_keys.digest(key)] = IntrospectResponse(caller=who)
        says(identities, events.AccountEnabled(account_id=who.account_id))
        raise Disabled

    script.introspect = overtaken  # type: ignore[method-assign]
    with pytest.raises(AccountDisabled):
        await identities.resolve(shown(key), "vlinders")

    assert told_of(await identities.resolve(shown(key), "vlinders")) == who


async def test_without_events_what_was_refused_is_asked_about_again_soon(
    identities: Identities, script: Script, clock: ManualClock
) -> None:
    who, key = an_api_key(), api_keys.new()
    script.credentials[api_keys.digest(key)] = Disabled()
    with pytest.raises(AccountDisabled):
        await identities.resolve(shown(key), "vlinders")
    script.credentials[api_keys.digest(key)] = IntrospectResponse(caller=who)

    clock.advance(LIFETIME / 2)

    assert told_of(await identities.resolve(shown(key), "vlinders")) == who


async def test_a_caller_is_told_with_the_dialect_that_he_calls_in(
    identities: Identities, script: Script
) -> None:
    who = an_api_key(hourly_limit=500)
    key = script.admit(who)
    one = await identities.resolve(shown(key), "vlinders")
    other = await identities.resolve(shown(key), "massrouter")

    for principal, dialect in ((one, "vlinders"), (other, "massrouter")):
        assert principal.caller.dialect == dialect
        assert Caller.FromString(principal.wire) == principal.caller
        assert told_of(principal) == who
        assert identities.known(shown(key), dialect) is principal
        assert principal.own_rate == Rate(500, HOUR)
    assert one.bucket != other.bucket
    assert len(script.requests("Introspect")) == 1


async def test_a_key_opens_nothing_in_an_api_that_it_was_not_made_for(
    identities: Identities, script: Script
) -> None:
    key = script.admit(an_api_key(dialect="massrouter", scopes=["all:read"]))

    for dialect, scopes in (("massrouter", ["all:read"]), ("vlinders", []), ("lyss", [])):
        principal = await identities.resolve(shown(key), dialect)
        assert (principal.caller.dialect, principal.caller.scopes) == (dialect, scopes)


async def test_the_use_of_keys_is_reported_and_what_fails_is_reported_again(
    identities: Identities, script: Script
) -> None:
    class Down(Unavailable):
        """Down."""

    first, second = an_api_key(), an_api_key()
    for who in (first, first, second):
        await identities.resolve(shown(script.admit(who)), "vlinders")
    script.answers["ReportKeyUse"] = Down()
    await identities.report()
    script.answers["ReportKeyUse"] = ReportKeyUseResponse()
    await identities.report()
    await identities.report()

    failed, told = script.requests("ReportKeyUse")
    assert failed == told
    assert {use.api_key_id for use in told.uses} == {first.api_key_id, second.api_key_id}


async def test_a_session_is_known_by_its_token(identities: Identities, script: Script) -> None:
    who = a_user()
    token = token_keys(script).sign(who)
    script.credentials[who.session_id] = IntrospectResponse(caller=who)

    first = await identities.resolve(shown(token), "vlinders")

    assert told_of(first) == who
    assert identities.known(shown(token), "vlinders") is first
    says(identities, events.SessionRevoked(session_id=who.session_id))
    assert identities.known(shown(token), "vlinders") is None


async def test_a_token_is_believed_no_longer_than_it_says(
    identities: Identities, script: Script, clock: ManualClock
) -> None:
    who = a_user()
    token = token_keys(script).sign(who, exp=int(clock.now().timestamp()) + 20)
    script.credentials[who.session_id] = IntrospectResponse(caller=who)
    await identities.resolve(shown(token), "vlinders")

    clock.advance(26)

    with pytest.raises(TokenExpired):
        await identities.resolve(shown(token), "vlinders")


async def test_a_session_of_another_account_than_the_tokens_is_refused(
    identities: Identities, script: Script
) -> None:
    who, other = a_user(), a_user()
    token = token_keys(script).sign(who)
    script.credentials[who.session_id] = IntrospectResponse(caller=other)

    with pytest.raises(InvalidCredential):
        await identities.resolve(shown(token), "vlinders")


async def test_tokens_with_the_same_beginning_are_different_people(
    identities: Identities, script: Script
) -> None:
    keys, people = token_keys(script), [a_user() for _ in range(20)]
    tokens = []
    for who in people:
        script.credentials[who.session_id] = IntrospectResponse(caller=who)
        tokens.append(keys.sign(who))

    found: list[Principal] = [
        await identities.resolve(shown(token), "vlinders") for token in tokens
    ]

    assert [principal.caller.account_id for principal in found] == [
        who.account_id for who in people
    ]
