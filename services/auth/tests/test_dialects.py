"""Dialects: one account through all of them, by the rules of each."""

from typing import Any

import pytest
from joserfc import jwt

from vlinders.auth.v1 import api_keys_pb2 as keys_pb
from vlinders.auth.v1 import sessions_pb2 as pb
from vlinders_auth.dialects import CANONICAL, rules_of
from vlinders_kit import api_keys

from .conftest import Auth, failed, session_of
from .test_sessions import key_set

SECONDS = {"vlinders": 900, "maas": 3600, "massrouter": 3600, "lyss": 1800, "owl": 1800}


def test_a_dialect_that_nobody_knows_has_the_canonical_rules() -> None:
    assert rules_of("klingon") is rules_of("") is rules_of("vlinders") is CANONICAL


@pytest.mark.parametrize(("dialect", "seconds"), SECONDS.items())
async def test_an_access_token_lasts_as_its_dialect_says(
    auth: Auth, dialect: str, seconds: int
) -> None:
    await auth.register()

    opened = await auth.login(dialect=dialect)

    claims = jwt.decode(opened.access_token, await key_set(auth), algorithms=["RS256"]).claims
    assert (claims["exp"] - claims["iat"], opened.expires_in) == (seconds, seconds)
    assert bool(opened.refresh_token) == (dialect not in ("lyss", "owl"))


async def test_a_token_that_is_good_gets_another_of_its_own_dialect(auth: Auth) -> None:
    await auth.register()
    opened = await auth.login(dialect="lyss")
    ada = await auth.user(opened, dialect="maas")

    renewed = await auth.sessions(ada).RenewMySession(pb.RenewMySessionRequest())

    assert renewed.access_token != opened.access_token
    assert session_of(renewed.access_token) == session_of(opened.access_token)
    assert (renewed.expires_in, renewed.refresh_token) == (1800, "")


async def test_who_logs_out_ends_his_session_and_no_other(auth: Auth) -> None:
    await auth.register()
    other = session_of((await auth.login(dialect="lyss")).access_token)
    opened = await auth.login(dialect="lyss")
    ada = await auth.user(opened)

    for _ in range(2):
        await auth.sessions(ada).Logout(pb.LogoutRequest())

    void = auth.introspect(session_id=session_of(opened.access_token))
    assert (await failed(void)).reason == "CREDENTIAL_NOT_FOUND"
    renewed = auth.sessions(ada).RenewMySession(pb.RenewMySessionRequest())
    assert (await failed(renewed)).reason == "CREDENTIAL_NOT_FOUND"
    await auth.introspect(session_id=other)


async def key(auth: Auth, dialect: str, **over: Any) -> keys_pb.CreateApiKeyResponse:
    ada = await auth.user(await auth.login(), dialect=dialect)
    return await auth.key(ada, **over)


async def test_keys_are_what_their_dialect_says(auth: Auth) -> None:
    await auth.register()

    made = await key(auth, "massrouter", permissions=["all:read"])

    assert made.key.startswith("mr_sk_")
    assert made.key_prefix == made.key[:12]
    assert made.hourly_limit == 1000
    caller = (await auth.introspect(api_key=made.key)).caller
    assert (caller.hourly_limit, caller.dialect) == (1000, "massrouter")
    assert caller.scopes == ["account:read", "all:read", "inference:read", "usage:read"]


async def test_a_key_may_make_as_many_requests_as_its_maker_says(auth: Auth) -> None:
    await auth.register()

    made = await key(auth, "massrouter", permissions=["all:read"], hourly_limit=7)
    usual = await key(auth, "vlinders", hourly_limit=7)

    assert made.hourly_limit == 7
    assert (await auth.introspect(api_key=made.key)).caller.hourly_limit == 7
    assert not usual.HasField("hourly_limit")
    assert (await auth.introspect(api_key=usual.key)).caller.hourly_limit == 0


@pytest.mark.parametrize(
    ("dialect", "permissions"),
    [
        ("vlinders", ["inference:read", "all:read"]),
        ("massrouter", ["all:write", "inference:read"]),
    ],
)
async def test_a_key_is_allowed_nothing_that_its_dialect_does_not_know(
    auth: Auth, dialect: str, permissions: list[str]
) -> None:
    await auth.register()

    refusal = await failed(key(auth, dialect, permissions=permissions))

    assert refusal.reason == "PERMISSION_UNKNOWN"
    assert [(each.field, each.rule) for each in refusal.violations] == [
        ("permissions[1]", "string.in")
    ]


async def test_keys_are_listed_and_revoked_where_they_were_made(auth: Auth) -> None:
    await auth.register()
    made = await key(auth, "massrouter", permissions=["all:write"])
    there = await auth.user(await auth.login(), dialect="massrouter")
    elsewhere = await auth.user(await auth.login(), dialect="vlinders")
    revoke = keys_pb.RevokeApiKeyRequest(api_key_id=made.id)

    assert not (await auth.keys(elsewhere).ListApiKeys(keys_pb.ListApiKeysRequest())).api_keys
    refusal = await failed(auth.keys(elsewhere).RevokeApiKey(revoke))
    assert refusal.reason == "API_KEY_NOT_FOUND"

    [shown] = (await auth.keys(there).ListApiKeys(keys_pb.ListApiKeysRequest())).api_keys
    assert (shown.id, shown.hourly_limit) == (made.id, 1000)
    await auth.keys(there).RevokeApiKey(revoke)
    assert (await failed(auth.introspect(api_key=made.key))).reason == "CREDENTIAL_NOT_FOUND"


def test_every_form_of_a_key_is_some_dialects() -> None:
    names = ("vlinders", "maas", "massrouter", "lyss", "owl")
    assert {rules_of(name).keys.form for name in names} == set(api_keys.FORMS)
