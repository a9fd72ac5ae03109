"""Access tokens: none but auth's own pass, whatever they say of themselves (RFC 8725)."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc.jwk import RSAKey

from vlinders_gateway.refusals import IdentityUnavailable, InvalidCredential
from vlinders_gateway.testing import Script, services, token_keys
from vlinders_gateway.tokens import Keys, Tokens
from vlinders_kit.clock import ManualClock
from vlinders_kit.errors import Unavailable
from vlinders_kit.testing import a_user

pytestmark = pytest.mark.anyio

HEADER = {"alg": "RS256", "typ": "at+jwt", "kid": "k1"}


@pytest.fixture
def clock() -> ManualClock:
    from datetime import UTC, datetime

    return ManualClock(moment=datetime.now(UTC))


@pytest.fixture
async def tokens(script: Script, clock: ManualClock) -> AsyncIterator[Tokens]:
    token_keys(script)
    async with services(script) as parts:
        keys = Keys(parts["vlinders.auth"].channel(), clock)
        yield Tokens(keys, issuer="vlinders", audience="vlinders", clock=clock)


def claims(**over: Any) -> dict[str, Any]:
    now = int(time.time())
    usual = {
        "iss": "vlinders",
        "aud": "vlinders",
        "sub": "user_1",
        "sid": "ses_1",
        "tid": "tenant_1",
        "iat": now,
        "exp": now + 900,
        "jti": "j1",
    }
    return {name: value for name, value in (usual | over).items() if value is not None}


def signed(header: dict[str, Any], payload: dict[str, Any], key: RSAKey) -> bytes:
    """A token that is genuinely signed, by the algorithm that its header names."""
    said = part(header) + b"." + part(payload)
    digest = hashes.SHA512() if header["alg"] == "RS512" else hashes.SHA256()
    whole = padding.PSS(padding.MGF1(digest), digest.digest_size)
    padded = whole if header["alg"] == "PS256" else padding.PKCS1v15()
    return said + b"." + part(key.private_key.sign(said, padded, digest))


def part(value: Any) -> bytes:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


async def test_while_auth_is_silent_all_who_wait_share_one_question(script: Script) -> None:
    async def keep_silent(request: Any, context: Any) -> None:
        await asyncio.Event().wait()

    script.answers["GetKeySet"] = keep_silent
    async with services(script) as parts:
        keys = Keys(parts["vlinders.auth"].channel(), patience=0.2)
        asked = (keys.get(f"k{number}") for number in range(20))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        told = len(script.requests("GetKeySet"))

    assert {type(answer) for answer in answers} == {IdentityUnavailable}
    assert told <= 1  # none has come, if even that was too late


async def test_a_token_of_auths_says_who_and_until_when(tokens: Tokens, script: Script) -> None:
    who = a_user()
    found = await tokens.verify(token_keys(script).sign(who).encode())

    assert (found.account_id, found.session_id) == (who.account_id, who.session_id)
    assert found.expires_at > time.time() + 800


HEADERS: dict[str, dict[str, Any]] = {
    "another algorithm": {**HEADER, "alg": "RS512"},
    "another padding": {**HEADER, "alg": "PS256"},
    "another type": {**HEADER, "typ": "JWT"},
    "a refresh token": {**HEADER, "typ": "rt+jwt"},
    "no type": {"alg": "RS256", "kid": "k1"},
    "no key id": {"alg": "RS256", "typ": "at+jwt"},
    "an unknown key id": {**HEADER, "kid": "k2"},
    "a key id that is a path": {**HEADER, "kid": "../../dev/null"},
    "an unknown critical extension": {**HEADER, "crit": ["exp2"], "exp2": 1},
    "keys from elsewhere": {**HEADER, "jku": "https://evil.example/jwks"},
    "a certificate from elsewhere": {**HEADER, "x5u": "https://evil.example/x5u"},
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
async def test_a_header_that_is_not_as_auth_writes_it_is_refused(
    tokens: Tokens, script: Script, header: dict[str, Any]
) -> None:
    with pytest.raises(InvalidCredential):
        await tokens.verify(signed(header, claims(), token_keys(script).key))


CLAIMS: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "evil"},
    "no issuer": {"iss": None},
    "an issuer that is a list": {"iss": ["vlinders"]},
    "another audience": {"aud": "billing"},
    "no audience": {"aud": None},
    "another audience in a list": {"aud": ["billing"]},
    "expired, as text": {"exp": str(int(time.time()) + 900)},
    "no expiry": {"exp": None},
    "not valid yet": {"nbf": int(time.time()) + 600},
    "nobody": {"sub": None},
    "no session": {"sid": None},
    "a session that is a number": {"sid": 5},
}


@pytest.mark.parametrize("wrong", CLAIMS.values(), ids=CLAIMS.keys())
async def test_claims_that_are_not_for_us_or_not_for_now_are_refused(
    tokens: Tokens, script: Script, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidCredential):
        await tokens.verify(signed(HEADER, claims(**wrong), token_keys(script).key))


async def test_a_token_of_another_key_is_refused(tokens: Tokens) -> None:
    with pytest.raises(InvalidCredential):
        await tokens.verify(signed(HEADER, claims(), RSAKey.generate_key(2048)))


async def test_a_token_that_carries_its_own_key_is_refused(tokens: Tokens) -> None:
    own = RSAKey.generate_key(2048)
    header = {**HEADER, "jwk": own.as_dict(private=False)}
    with pytest.raises(InvalidCredential):
        await tokens.verify(signed(header, claims(), own))


@pytest.mark.parametrize("alg", ["none", "None", "HS256"])
async def test_a_token_that_is_signed_by_nobody_or_with_the_public_key_is_refused(
    tokens: Tokens, script: Script, alg: str
) -> None:
    pem = token_keys(script).key.as_pem(private=False)
    said = part({**HEADER, "alg": alg}) + b"." + part(claims())
    mac = hmac.HMAC(pem, hashes.SHA256())
    mac.update(said)
    for signature in (b"", part(mac.finalize())):
        with pytest.raises(InvalidCredential):
            await tokens.verify(said + b"." + signature)


async def test_a_token_with_one_bit_changed_is_refused(tokens: Tokens, script: Script) -> None:
    token = token_keys(script).sign(a_user()).encode()
    for place in range(0, len(token) - 4, 17):
        other = b"A" if token[place : place + 1] != b"A" else b"B"
        with pytest.raises(InvalidCredential):
            await tokens.verify(token[:place] + other + token[place + 1 :])


@pytest.mark.parametrize("token", [b"eyJ..", b"eyJhbGciOi.e30.x", part(b"eyJ") + b"..", b"a.b.c"])
async def test_what_is_no_token_is_refused(tokens: Tokens, token: bytes) -> None:
    with pytest.raises(InvalidCredential):
        await tokens.verify(token)


async def test_a_new_key_is_fetched_when_a_token_names_it(
    tokens: Tokens, script: Script, clock: ManualClock
) -> None:
    keys = token_keys(script)
    await tokens.verify(keys.sign(a_user()).encode())
    rotated = keys.rotate(script)

    with pytest.raises(InvalidCredential):  # asked a moment ago
        await tokens.verify(rotated.sign(a_user()).encode())
    clock.advance(5)
    await tokens.verify(rotated.sign(a_user()).encode())
    assert len(script.requests("GetKeySet")) == 2


async def test_key_ids_that_nobody_has_do_not_ask_auth_every_time(
    tokens: Tokens, script: Script
) -> None:
    key = token_keys(script).key
    for number in range(20):
        with pytest.raises(InvalidCredential):
            await tokens.verify(signed({**HEADER, "kid": f"x{number}"}, claims(), key))
    assert len(script.requests("GetKeySet")) == 1


async def test_a_retired_key_is_dead_within_a_minute(
    tokens: Tokens, script: Script, clock: ManualClock
) -> None:
    keys = token_keys(script)
    old = keys.sign(a_user()).encode()
    await tokens.verify(old)
    keys.rotate(script, keep=False)

    clock.advance(60)

    with pytest.raises(InvalidCredential):
        await tokens.verify(old)


async def test_without_auths_keys_nobody_can_be_told_genuine(
    tokens: Tokens, script: Script
) -> None:
    class Down(Unavailable):
        """Down."""

    token = token_keys(script).sign(a_user()).encode()
    script.answers["GetKeySet"] = Down()
    with pytest.raises(IdentityUnavailable):
        await tokens.verify(token)
