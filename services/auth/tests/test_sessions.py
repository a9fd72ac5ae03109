"""Sessions: what their tokens are, who can verify them, and when they end."""

import base64
import hmac
import json
from datetime import timedelta
from typing import Any

import grpc
import pytest
from joserfc import jwk, jws, jwt
from joserfc.errors import JoseError
from sqlalchemy import update

from vlinders.auth.v1 import sessions_pb2 as pb
from vlinders.auth.v1.accounts_pb2 import ACCOUNT_STATUS_INACTIVE
from vlinders.auth.v1.events_pb2 import SessionRevoked
from vlinders_auth import sessions
from vlinders_auth.models import Account
from vlinders_kit.errors import failure_of

from .conftest import NOW, Auth, session_of


async def key_set(auth: Auth) -> jwk.KeySet:
    """The published keys, read as any verifier reads them."""
    published = await auth.sessions().GetKeySet(pb.GetKeySetRequest())
    members = ("kty", "kid", "use", "alg", "n", "e")
    return jwk.KeySet.import_key_set(
        {"keys": [{name: getattr(key, name) for name in members} for key in published.keys]}
    )


async def refresh(auth: Auth, token: str) -> pb.RefreshSessionResponse:
    return await auth.sessions().RefreshSession(pb.RefreshSessionRequest(refresh_token=token))


async def not_refreshed(auth: Auth, token: str) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await refresh(auth, token)
    return failure_of(refused.value).reason


async def test_an_access_token_says_who_for_fifteen_minutes(auth: Auth) -> None:
    ada = await auth.register()
    opened = await auth.login()

    token = jwt.decode(opened.access_token, await key_set(auth), algorithms=["RS256"])

    assert token.header.keys() == {"alg", "typ", "kid"}
    assert (token.header["alg"], token.header["typ"]) == ("RS256", "at+jwt")
    issued = int(NOW.timestamp())
    sid, jti = token.claims.pop("sid"), token.claims.pop("jti")
    assert token.claims == {
        "iss": "vlinders",
        "aud": "vlinders",
        "sub": ada.account_id,
        "tid": ada.tenant_id,
        "iat": issued,
        "exp": issued + 900,
    }
    assert (sid[:8], jti[:6]) == ("session_", "token_")


async def test_only_the_public_halves_are_published(auth: Auth) -> None:
    keys = await auth.sessions().GetKeySet(pb.GetKeySetRequest())

    assert [(key.kty, key.use, key.alg) for key in keys.keys] == [("RSA", "sig", "RS256")]
    assert set(pb.KeySet.Key.DESCRIPTOR.fields_by_name) == {"kty", "kid", "use", "alg", "n", "e"}


def forged(token: str, keys: jwk.KeySet) -> dict[str, str]:
    """What others have been taken in by, made from a genuine token and the published keys."""
    header, payload, signature = token.split(".")
    said = json.loads(base64.urlsafe_b64decode(header + "=="))
    public = keys.keys[0]
    assert isinstance(public, jwk.RSAKey)
    claims = base64.urlsafe_b64decode(payload + "==")
    pem = public.as_pem(private=False)
    own = jwk.RSAKey.generate_key(2048, private=True)

    def headed(**over: Any) -> str:
        return part(json.dumps({**said, **over}).encode())

    def hmac_with(secret: bytes) -> str:
        signed = f"{headed(alg='HS256')}.{payload}"
        return f"{signed}.{part(hmac.digest(secret, signed.encode(), 'sha256'))}"

    return {
        "none": f"{headed(alg='none')}.{payload}.",
        "None": f"{headed(alg='None')}.{payload}.{signature}",
        "signature left out": f"{header}.{payload}.",
        "HS256 with the public key": hmac_with(pem),
        "HS256 with the public key, other whitespace": hmac_with(pem.strip() + b"\n\n"),
        "HS256 with the modulus": hmac_with(str(public.as_dict()["n"]).encode()),
        "another key under our kid": jws.serialize_compact(said, claims, own, ["RS256"]),
        "a kid that is none": f"{headed(kid='../../dev/null')}.{payload}.{signature}",
        "a kid that is SQL": f"{headed(kid=chr(39) + ' OR 1=1 --')}.{payload}.{signature}",
        "its own key": jws.serialize_compact(
            {**said, "jwk": own.as_dict(private=False)}, claims, own, ["RS256"]
        ),
        "other claims": f"{header}.{part(claims.replace(b'user_', b'user_0'))}.{signature}",
        "another algorithm": f"{headed(alg='RS512')}.{payload}.{signature}",
        "an unknown critical header": f"{headed(crit=['x'], x=1)}.{payload}.{signature}",
    }


def part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


async def test_nothing_forged_verifies_with_the_published_keys(auth: Auth) -> None:
    await auth.register()
    opened = await auth.login()
    keys = await key_set(auth)

    for how, token in forged(opened.access_token, keys).items():
        try:
            jwt.decode(token, keys, algorithms=["RS256"])
        except (JoseError, ValueError):
            continue
        pytest.fail(f"accepted: {how}")


async def test_the_refresh_token_stays_and_belongs_to_its_session(auth: Auth) -> None:
    await auth.register()
    opened = await auth.login()

    auth.clock.advance(timedelta(days=29))
    for _ in range(2):
        renewed = await refresh(auth, opened.refresh_token)
        assert session_of(renewed.access_token) == session_of(opened.access_token)
        assert (renewed.token_type, renewed.expires_in) == ("bearer", 900)
    auth.clock.advance(timedelta(days=1))
    assert await not_refreshed(auth, opened.refresh_token) == "INVALID_REFRESH_TOKEN"


async def test_what_is_no_refresh_token_renews_nothing(auth: Auth) -> None:
    await auth.register()
    opened = await auth.login()

    for token in (opened.access_token, "x", opened.refresh_token[:-1], opened.refresh_token + " "):
        assert await not_refreshed(auth, token) == "INVALID_REFRESH_TOKEN"


async def test_a_session_that_is_revoked_ends_once_and_tells(auth: Auth) -> None:
    ada = await auth.register()
    opened = await auth.login()
    session_id = session_of(opened.access_token)

    for _ in range(2):
        async with auth.db.begin() as tx:
            await sessions.revoke(tx, session_id, now=auth.clock.now())

    assert await auth.published(SessionRevoked) == [
        SessionRevoked(session_id=session_id, account_id=ada.account_id)
    ]
    assert await not_refreshed(auth, opened.refresh_token) == "INVALID_REFRESH_TOKEN"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await auth.introspect(session_id=session_id)
    assert failure_of(refused.value).reason == "CREDENTIAL_NOT_FOUND"


async def test_a_disabled_account_renews_nothing(auth: Auth) -> None:
    await auth.register()
    opened = await auth.login()
    async with auth.db.begin() as tx:
        await tx.execute(update(Account).values(status=ACCOUNT_STATUS_INACTIVE))

    assert await not_refreshed(auth, opened.refresh_token) == "ACCOUNT_DISABLED"
