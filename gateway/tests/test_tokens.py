"""Access tokens: none but auth's own pass, whatever they say of themselves (RFC 8725)."""

import asyncio
import base64
import contextlib
import re
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from joserfc.jwk import RSAKey

from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1.accounts_pb2 import Account
from vlinders.auth.v1.identity_pb2 import IntrospectResponse
from vlinders.auth.v1.sessions_pb2 import KeySet
from vlinders.gpu_scheduler.v1.picks_pb2 import SignedTicket, Ticket
from vlinders_gateway.dialects import DIALECTS, Dialect
from vlinders_gateway.identity import Identities
from vlinders_gateway.refusals import IdentityUnavailable, InvalidCredential, TokenExpired
from vlinders_gateway.testing import (
    NO_RATES,
    Script,
    TokenKeys,
    gateway,
    services,
    token_keys,
)
from vlinders_gateway.tokens import Keys, Tokens
from vlinders_kit import api_keys
from vlinders_kit.clock import ManualClock
from vlinders_kit.errors import AppError, Unavailable
from vlinders_kit.testing import CALLER_KEY, a_user
from vlinders_kit.testing.figures import Figure

from .forged_tokens import forged
from .token_parts import HEADER, MALLORY, claims, part, signed

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(moment=datetime.now(UTC))


@pytest.fixture
async def tokens(script: Script, clock: ManualClock) -> AsyncIterator[Tokens]:
    token_keys(script)
    async with services(script) as parts:
        keys = Keys(parts["vlinders.auth"].channel(), clock)
        yield Tokens(keys, issuer="vlinders", audience="vlinders", clock=clock)


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


async def test_nothing_that_is_forged_is_let_in_or_asked_about(
    script: Script, tokens: Tokens, figure: Figure
) -> None:
    """Each alone, where it would be believed; the genuine one is, so it is for what is forged."""
    key, who = token_keys(script).key.private_key, a_user(account_id="user_1", session_id="ses_1")
    script.credentials["ses_1"] = IntrospectResponse(caller=who)
    vectors = forged(key) | {f"ours: {name}": value for name, value in of_other_kinds(who)}
    passed = []
    async with services(script) as parts:
        identities = Identities(parts["vlinders.auth"].channel(), tokens)
        for name, value in vectors.items():
            try:
                await identities.resolve(value, "vlinders")
            except (InvalidCredential, TokenExpired):
                continue
            passed.append(name)
        asked = script.requests("Introspect")
        assert await identities.resolve(b"Bearer " + signed(HEADER, claims(), key), "vlinders")

    figure("forged tokens let in", len(passed), must="0", condition=f"of {len(vectors)}")
    assert passed == []
    assert asked == []
    assert len(vectors) >= 100


async def test_whatever_is_forged_is_a_401_in_every_dialect(script: Script, valkey: str) -> None:
    key, who = token_keys(script).key.private_key, a_user(account_id="user_1", session_id="ses_1")
    script.credentials["ses_1"] = IntrospectResponse(caller=who)
    script.answers["GetMyAccount"] = Account(id="user_1")
    vectors = forged(key)
    wrong = []
    async with gateway(script, valkey, rates=NO_RATES) as running:
        for name, value in vectors.items():
            if not TRAVELS.fullmatch(value):
                continue
            for dialect in DIALECTS:
                path = dialect.mounts[0] + path_of(dialect, "GetMyAccount")
                answer = await running.http.get(path, headers={b"Authorization": value})
                if answer.status_code != 401:
                    wrong.append((name, dialect.name, answer.status_code))
        assert script.requests("Introspect") == []
        genuine = {b"Authorization": b"Bearer " + signed(HEADER, claims(), key)}
        assert (await running.http.get("/v1/users/me", headers=genuine)).status_code == 200

    assert wrong == []


TRAVELS = re.compile(rb"[\t -~\x80-\xff]{1,16000}(?<![ \t])")
"""What an HTTP client can send as a header."""


def path_of(dialect: Dialect, operation: str) -> str:
    return next(path for each, _, path in dialect.places() if each.name == operation)


def of_other_kinds(who: Caller) -> Iterator[tuple[str, bytes]]:
    """What else of ours is text that opens something."""
    key = api_keys.new()
    caller = base64.urlsafe_b64encode(CALLER_KEY.sign(who, "vlinders.auth")).rstrip(b"=")
    ticket = SignedTicket(ticket=Ticket(worker_id="w").SerializeToString(), signature=bytes(32))
    for name, text in {
        "a refresh token": f"vlinders_rt_{secrets.token_urlsafe(32)}",
        "a ticket": base64.urlsafe_b64encode(ticket.SerializeToString()).decode(),
        "a caller": caller.decode(),
        "an API key with a slip": key[:-1] + ("0" if key[-1] != "0" else "1"),
        "an API key of another's form": "mr_sk_" + key.removeprefix("vlinders_sk_live_"),
        "an API key in a token": f"eyJhbGciOiJub25lIn0.{part(key.encode()).decode()}.",
        "an id": who.account_id,
    }.items():
        yield name, f"Bearer {text}".encode()


async def test_a_token_past_its_time_is_told_from_what_is_none(
    tokens: Tokens, script: Script
) -> None:
    key, past = token_keys(script).key.private_key, int(time.time()) - 60
    with pytest.raises(TokenExpired):
        await tokens.verify(signed(HEADER, claims(exp=past), key))
    for late in (
        signed(HEADER, claims(exp=past), MALLORY),
        signed(HEADER, claims(exp=past, aud="billing"), key),
        signed(HEADER, claims(exp=past, sid=5), key),
        signed({**HEADER, "typ": "rt+jwt"}, claims(exp=past), key),
    ):
        with pytest.raises(InvalidCredential):
            await tokens.verify(late)


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


async def test_keys_that_follow_each_other_under_load_refuse_no_token_that_is_valid(
    script: Script, clock: ManualClock
) -> None:
    """As auth does it: a key is published before its turn, and after its last token's end."""
    ring = [RSAKey.generate_key(2048) for _ in range(3)]
    every, refused, verified = 1200, [], 0
    held: deque[tuple[float, bytes]] = deque()
    begun = clock.now().timestamp()

    def published() -> list[KeySet.Key]:
        age = clock.now().timestamp() - begun
        turns = ((key, number * every) for number, key in enumerate(ring))
        return [
            TokenKeys(key, f"k{turn}").public()
            for key, turn in turns
            if turn - 120 <= age < turn + every + 900
        ]

    async def key_set(request: object, context: object) -> KeySet:
        return KeySet(keys=published())

    async def show(token: bytes) -> None:
        nonlocal verified
        try:
            await tokens.verify(token)
            verified += 1
        except AppError as error:
            refused.append((clock.now().timestamp() - begun, error))

    script.answers["GetKeySet"] = key_set
    async with services(script) as parts:
        tokens = Tokens(
            Keys(parts["vlinders.auth"].channel(), clock),
            issuer="vlinders",
            audience="vlinders",
            clock=clock,
        )
        while (age := clock.now().timestamp() - begun) < 2.5 * every:
            number = int(age // every)
            now, keys = int(begun + age), TokenKeys(ring[number], f"k{number * every}")
            held.append((age + 900, keys.sign(a_user(), iat=now, exp=now + 900).encode()))
            while held[0][0] <= age:
                held.popleft()
            strangers = signed({**HEADER, "kid": f"x{age}"}, claims(), MALLORY)
            with contextlib.suppress(InvalidCredential):
                await tokens.verify(strangers)
            await asyncio.gather(*(show(token) for _, token in list(held)[-1::-4]))
            clock.advance(7)

    assert refused == []
    assert verified > 5_000


async def test_key_ids_that_nobody_has_do_not_ask_auth_every_time(
    tokens: Tokens, script: Script
) -> None:
    key = token_keys(script).key.private_key
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
