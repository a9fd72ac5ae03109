"""Credential → caller: who is asked when, what is believed how long, and what ends it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vlinders.auth.v1 import events_pb2 as events
from vlinders.auth.v1.identity_pb2 import IntrospectResponse, ReportKeyUseResponse
from vlinders_gateway.identity import Identities, Principal
from vlinders_gateway.refusals import AccountDisabled, IdentityUnavailable, InvalidCredential
from vlinders_gateway.testing import Script, services, token_keys
from vlinders_gateway.tokens import Keys, Tokens
from vlinders_kit import api_keys
from vlinders_kit.clock import ManualClock
from vlinders_kit.errors import PermissionDenied, Unavailable
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


async def test_auth_is_asked_once_for_what_it_has_told(
    identities: Identities, script: Script
) -> None:
    who = an_api_key()
    key = script.admit(who)

    assert identities.known(shown(key)) is None
    first = await identities.resolve(shown(key))
    assert first.caller == who
    assert identities.known(shown(key)) is first
    assert (await identities.resolve(f"bearer {key}".encode())) is first
    assert len(script.requests("Introspect")) == 1


async def test_many_who_show_one_key_at_once_are_one_question(
    identities: Identities, script: Script
) -> None:
    key = script.key()

    found = await asyncio.gather(*(identities.resolve(shown(key)) for _ in range(50)))

    assert len(set(map(id, found))) == 1
    assert len(script.requests("Introspect")) == 1


async def test_one_who_leaves_does_not_take_the_answer_from_the_others(
    identities: Identities, script: Script
) -> None:
    key = script.key()
    leaves = asyncio.create_task(identities.resolve(shown(key)))
    stays = asyncio.create_task(identities.resolve(shown(key)))
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
        await identities.resolve(credential)
    assert script.asked == []


async def test_a_key_with_a_slip_costs_no_call(identities: Identities, script: Script) -> None:
    key = script.key()
    slipped = key[:-1] + ("a" if key[-1] != "a" else "b")

    with pytest.raises(InvalidCredential):
        await identities.resolve(shown(slipped))
    assert script.asked == []


async def test_nothing_shown_is_asked_for(identities: Identities) -> None:
    with pytest.raises(CredentialRequired):
        await identities.resolve(None)


async def test_an_unknown_key_is_asked_about_once_in_a_while(
    identities: Identities, script: Script, clock: ManualClock
) -> None:
    key = api_keys.new()
    for _ in range(3):
        with pytest.raises(InvalidCredential):
            await identities.resolve(shown(key))
    assert len(script.requests("Introspect")) == 1

    clock.advance(11)
    with pytest.raises(InvalidCredential):
        await identities.resolve(shown(key))
    assert len(script.requests("Introspect")) == 2


async def test_an_answer_is_believed_for_a_minute(
    identities: Identities, script: Script, clock: ManualClock
) -> None:
    key = script.key()
    await identities.resolve(shown(key))

    clock.advance(59)
    assert identities.known(shown(key)) is not None
    clock.advance(1)
    assert identities.known(shown(key)) is None
    await identities.resolve(shown(key))
    assert len(script.requests("Introspect")) == 2


async def test_an_answer_is_believed_no_longer_than_the_key_lasts(
    identities: Identities, script: Script, clock: ManualClock
) -> None:
    ends = IntrospectResponse(caller=an_api_key())
    ends.expires_at.FromDatetime(clock.now() + timedelta(seconds=5))
    key = api_keys.new()
    script.credentials[api_keys.digest(key)] = ends
    await identities.resolve(shown(key))

    clock.advance(5.1)

    assert identities.known(shown(key)) is None


def voiding(who: Any) -> list[Any]:
    return [
        events.ApiKeyRevoked(api_key_id=who.api_key_id, account_id=who.account_id),
        events.AccountDisabled(account_id=who.account_id),
        events.RolesChanged(account_id=who.account_id, tenant_id=who.tenant_id),
        events.TenantPlanChanged(tenant_id=who.tenant_id, plan="pro"),
    ]


@pytest.mark.parametrize("number", range(4))
async def test_what_auth_voids_is_forgotten_at_once(
    identities: Identities, script: Script, number: int
) -> None:
    who = an_api_key()
    key, other = script.admit(who), script.key()
    await identities.resolve(shown(key))
    kept = await identities.resolve(shown(other))
    event = voiding(who)[number]

    identities.hear(event.DESCRIPTOR.full_name, event.SerializeToString())

    assert identities.known(shown(key)) is None
    assert identities.known(shown(other)) is kept


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
        identities.hear(revoked.DESCRIPTOR.full_name, revoked.SerializeToString())
        return told

    script.introspect = overtaken  # type: ignore[method-assign]

    with pytest.raises(InvalidCredential):
        await identities.resolve(shown(key))
    assert identities.known(shown(key)) is None


async def test_whoever_revokes_a_key_finds_it_void_with_the_next_request(
    identities: Identities, script: Script
) -> None:
    from vlinders.auth.v1.api_keys_pb2 import RevokeApiKeyRequest

    who = an_api_key()
    key = script.admit(who)
    await identities.resolve(shown(key))

    identities.heed("RevokeApiKey", RevokeApiKeyRequest(api_key_id=who.api_key_id))

    assert identities.known(shown(key)) is None


async def test_without_auth_the_known_go_on_and_the_unknown_are_told_to_wait(
    identities: Identities, script: Script, clock: ManualClock
) -> None:
    class Down(Unavailable):
        """Down."""

    known, unknown = script.key(), api_keys.new()
    await identities.resolve(shown(known))
    for digest in script.credentials:
        script.credentials[digest] = Down()
    script.credentials[api_keys.digest(unknown)] = Down()

    clock.advance(59)
    assert (await identities.resolve(shown(known))).caller.api_key_id
    with pytest.raises(IdentityUnavailable):
        await identities.resolve(shown(unknown))
    clock.advance(1)
    with pytest.raises(IdentityUnavailable):
        await identities.resolve(shown(known))


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
    assert await identities.resolve(f"Bearer {key}".encode())
    await mending
    assert len(script.requests("Introspect")) == 2


async def test_a_disabled_account_is_told_so(identities: Identities, script: Script) -> None:
    class Disabled(PermissionDenied):
        """The account is deactivated."""

    Disabled.reason = "ACCOUNT_DISABLED"
    key = api_keys.new()
    script.credentials[api_keys.digest(key)] = Disabled()

    with pytest.raises(AccountDisabled):
        await identities.resolve(shown(key))


async def test_the_use_of_keys_is_reported_and_what_fails_is_reported_again(
    identities: Identities, script: Script
) -> None:
    class Down(Unavailable):
        """Down."""

    first, second = an_api_key(), an_api_key()
    for who in (first, first, second):
        await identities.resolve(shown(script.admit(who)))
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

    first = await identities.resolve(shown(token))

    assert first.caller == who
    assert identities.known(shown(token)) is first
    ended = events.SessionRevoked(session_id=who.session_id)
    identities.hear(ended.DESCRIPTOR.full_name, ended.SerializeToString())
    assert identities.known(shown(token)) is None


async def test_a_token_is_believed_no_longer_than_it_says(
    identities: Identities, script: Script, clock: ManualClock
) -> None:
    who = a_user()
    token = token_keys(script).sign(who, exp=int(clock.now().timestamp()) + 20)
    script.credentials[who.session_id] = IntrospectResponse(caller=who)
    await identities.resolve(shown(token))

    clock.advance(26)

    with pytest.raises(InvalidCredential):
        await identities.resolve(shown(token))


async def test_a_session_of_another_account_than_the_tokens_is_refused(
    identities: Identities, script: Script
) -> None:
    who, other = a_user(), a_user()
    token = token_keys(script).sign(who)
    script.credentials[who.session_id] = IntrospectResponse(caller=other)

    with pytest.raises(InvalidCredential):
        await identities.resolve(shown(token))


async def test_tokens_with_the_same_beginning_are_different_people(
    identities: Identities, script: Script
) -> None:
    keys, people = token_keys(script), [a_user() for _ in range(20)]
    tokens = []
    for who in people:
        script.credentials[who.session_id] = IntrospectResponse(caller=who)
        tokens.append(keys.sign(who))

    found: list[Principal] = [await identities.resolve(shown(token)) for token in tokens]

    assert [principal.caller.account_id for principal in found] == [
        who.account_id for who in people
    ]
