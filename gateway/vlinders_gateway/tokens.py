"""Access tokens: JSON Web Tokens that auth has signed, checked as RFC 8725 asks."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import grpc
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from joserfc.util import urlsafe_b64decode

from vlinders.auth.v1.sessions_pb2 import GetKeySetRequest, KeySet
from vlinders.auth.v1.sessions_pb2_grpc import SessionServiceStub
from vlinders_gateway.refusals import IdentityUnavailable, InvalidCredential, TokenExpired
from vlinders_kit import logs
from vlinders_kit.clock import Clock, SystemClock

ALGORITHM = "RS256"
TYPE = "at+jwt"
"""RFC 9068: so that no other token of ours, a refresh token for one, passes for an access token."""

LEEWAY = 5
"""Seconds that the clocks of issuer and gateway may differ."""

_LONGEST = 4096
_LONGEST_LIFETIME = 24 * 3600
"""Seconds; none of auth's is good for so long."""

_HEADER = frozenset(("alg", "kid", "typ"))
"""All that a header may say. More, as `crit`, `jku`, `jwk` or `zip`, is refused, never followed."""

_KEYS_LIFETIME = 60.0
_KEYS_AGAIN = 5.0
"""Seconds between two questions for keys that an unknown key id may cause."""

PATIENCE = 1.0
"""Seconds that auth has for an answer."""

log = logs.get(__name__)


@dataclass(frozen=True)
class Claims:
    """What a genuine token says."""

    account_id: str
    session_id: str
    expires_at: float
    """Unix seconds."""


class Keys:
    """Auth's public keys, by key id."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        clock: Clock | None = None,
        *,
        patience: float = PATIENCE,
    ) -> None:
        self._stub: Any = SessionServiceStub(channel)  # type: ignore[no-untyped-call]
        self._clock = clock or SystemClock()
        self._keys: dict[str, RSAKey] = {}
        self._asked_at = float("-inf")
        self._patience = patience
        self._asking: asyncio.Task[None] | None = None

    async def get(self, kid: str) -> RSAKey | None:
        """The key, or None where auth has no such key. Raises IdentityUnavailable."""
        age = self._clock.monotonic() - self._asked_at
        if age >= (_KEYS_LIFETIME if kid in self._keys else _KEYS_AGAIN):
            # One question for all who wait: in turn, each would have to wait for those before.
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask(), name="keys of auth")
                self._asking.add_done_callback(self._answered)
            await asyncio.shield(self._asking)
        return self._keys.get(kid)

    def _answered(self, asking: asyncio.Task[None]) -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # whoever waited has it; perhaps nobody does any more

    async def _ask(self) -> None:
        asked_at = self._clock.monotonic()
        try:
            found: KeySet = await self._stub.GetKeySet(GetKeySetRequest(), timeout=self._patience)
        except grpc.aio.AioRpcError as error:
            log.warning("keys_not_fetched", code=error.code().name)
            raise IdentityUnavailable from None
        self._keys = {key.kid: _imported(key) for key in found.keys}
        self._asked_at = asked_at


class Tokens:
    """Tells genuine tokens from all others."""

    def __init__(
        self, keys: Keys, *, issuer: str, audience: str, clock: Clock | None = None
    ) -> None:
        self._keys = keys
        self._clock = clock or SystemClock()
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(self._clock.now().timestamp()),
            leeway=LEEWAY,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            sub={"essential": True},
            sid={"essential": True},
            iat={"essential": True},
        )

    async def verify(self, token: bytes) -> Claims:
        """What `token` says.

        Raises InvalidCredential unless all of it is as auth issues them, and TokenExpired where it
        is, but past its time.
        """
        try:
            head, body, _ = token.split(b".")
            kid = _kid(_members(urlsafe_b64decode(head)))
            claims = _members(urlsafe_b64decode(body))
        except (ValueError, RecursionError):
            raise InvalidCredential from None
        key = await self._keys.get(kid)
        if key is None:
            raise InvalidCredential
        try:
            jws.deserialize_compact(token, key, algorithms=[ALGORITHM])
            expires_at = claims.pop("exp", None)
            self._claims.validate(claims)
        except (JoseError, ValueError, TypeError, OverflowError):
            raise InvalidCredential from None
        if not isinstance(claims["sid"], str):
            raise InvalidCredential
        self._check_expiry(expires_at)  # last: of what has expired, nothing else is wrong
        return Claims(claims["sub"], claims["sid"], float(expires_at))

    def _check_expiry(self, expires_at: Any) -> None:
        now = self._clock.now().timestamp()
        if type(expires_at) is not int or expires_at > now + _LONGEST_LIFETIME:
            raise InvalidCredential
        if expires_at + LEEWAY <= now:
            raise TokenExpired


def looks_like_one(token: bytes) -> bool:
    """Whether it is worth a signature check."""
    return len(token) <= _LONGEST and token.startswith(b"eyJ") and token.count(b".") == 2


def _members(raw: bytes) -> dict[str, Any]:
    """A JSON object; raises ValueError for what is none, or names a member twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError
        return found

    members = json.loads(raw.decode(), object_pairs_hook=once, parse_constant=int)  # no NaN is one
    if not isinstance(members, dict):
        raise ValueError
    return members


def _kid(header: dict[str, Any]) -> str:
    """The key id of a header that says what ours say, and nothing else."""
    kid = header.get("kid")
    if header.keys() != _HEADER or header["alg"] != ALGORITHM or header["typ"] != TYPE:
        raise ValueError
    if not isinstance(kid, str):
        raise ValueError
    return kid


def _imported(key: KeySet.Key) -> RSAKey:
    return RSAKey.import_key({"kty": "RSA", "kid": key.kid, "use": "sig", "n": key.n, "e": key.e})
