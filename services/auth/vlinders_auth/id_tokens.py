"""ID tokens: who somebody is, signed by his provider (OpenID Connect Core 3.1.3.7)."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from vlinders_kit.clock import Clock

ALGORITHM = "RS256"
LEEWAY_SECONDS = 60
"""By how much a provider's clock may differ from ours."""

KEEP_SECONDS = 3600.0
"""How long published keys are believed to be all there are."""

SPARE_SECONDS = 30.0
"""How often at most they are asked for because of a key that is not among them."""


class InvalidIdToken(Exception):
    """The token is not from this provider, not for this sign-in, or not of this moment."""


class IdTokens:
    """Verifies ID tokens; `fetch` gets the JSON of published keys from their address."""

    def __init__(self, fetch: Callable[[str], Awaitable[Any]], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._kept: dict[str, tuple[float, KeySet]] = {}

    async def claims_of(
        self,
        id_token: str,
        *,
        keys: str,
        issuers: tuple[str, ...],
        client_id: str,
        nonce: str,
        access_token: str,
    ) -> Mapping[str, Any]:
        """What the token says; raises InvalidIdToken.

        `keys` is where those are published that sign it; `nonce` is the one of this sign-in.
        """
        token = await self._verified(id_token, keys)
        claims: Any = CodeIDToken(
            token.claims,
            token.header,
            options={
                "iss": {"essential": True, "values": list(issuers)},
                "aud": {"essential": True, "value": client_id},
                "nonce": {"essential": True, "value": nonce},
            },
            params={"client_id": client_id, "access_token": access_token},
        )
        try:
            claims.validate(int(self._clock.now().timestamp()), LEEWAY_SECONDS)
        except (JoseError, TypeError, ValueError) as error:
            raise InvalidIdToken(str(error)) from None
        return dict(claims)

    async def _verified(self, id_token: str, url: str) -> jwt.Token:
        for seconds in (KEEP_SECONDS, SPARE_SECONDS):
            keys = await self._keys(url, seconds)
            try:
                return jwt.decode(id_token, keys, [ALGORITHM])
            except InvalidKeyIdError:
                continue  # a new key may have been published
            except (JoseError, ValueError) as error:
                raise InvalidIdToken(str(error)) from None
        raise InvalidIdToken("its key is not published")

    async def _keys(self, url: str, seconds: float) -> KeySet:
        """The keys as they were at most `seconds` ago; raises ValueError for what are none."""
        now = self._clock.monotonic()
        kept = self._kept.get(url)
        if kept is not None and now - kept[0] < seconds:
            return kept[1]
        published = await self._fetch(url)
        try:
            keys = KeySet.import_key_set(published)
        except JoseError as error:
            raise ValueError(str(error)) from None
        self._kept[url] = now, keys
        return keys
