"""Signing keys: they sign access tokens one after the other, and each is published before it does.

The key that signs is the one whose `signs_from` came last. Its successor is made `PUBLISHED_BEFORE`
its own turn, so that whoever caches the key set knows it by then. A key stays published until the
last token that it can have signed has expired; then it is deleted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from joserfc.jwk import RSAKey
from sqlalchemy import select, text

from vlinders_auth.dialects import LONGEST_ACCESS
from vlinders_auth.models import SigningKey
from vlinders_auth.tokens import ALGORITHM
from vlinders_kit.db import Tx
from vlinders_kit.sealing import Sealer

PUBLISHED_BEFORE = timedelta(hours=1)
"""How long a key is published before it signs: longer than any process goes without asking."""

_GRACE = timedelta(minutes=5)
"""How much longer a key stays than its tokens, for clocks that differ."""

_BITS = 2048
_PARAMETERS: Any = {"use": "sig", "alg": ALGORITHM}
_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('vlinders_auth.signing_keys'))")


@dataclass(frozen=True)
class Ring:
    """The keys as a process holds them, in the order of their turns."""

    keys: Sequence[tuple[datetime, RSAKey]]

    def signer(self, now: datetime) -> RSAKey:
        """The key whose turn it is; the first one for a clock that is behind its maker's."""
        begun = [key for signs_from, key in self.keys if signs_from <= now]
        return begun[-1] if begun else self.keys[0][1]

    def published(self) -> list[dict[str, Any]]:
        """All of them as JSON Web Keys (RFC 7517), without what is private."""
        return [key.as_dict(private=False) for _, key in self.keys]


def generate() -> RSAKey:
    """A new key; takes up to a second."""
    key = RSAKey.generate_key(_BITS, _PARAMETERS, private=True)
    key.ensure_kid()
    return key


async def is_due(tx: Tx, *, now: datetime, lifetime: timedelta) -> bool:
    """Whether the next key must be published by now."""
    return await _next_turn(tx, now, lifetime) is not None


async def add(tx: Tx, key: RSAKey, sealer: Sealer, *, now: datetime, lifetime: timedelta) -> None:
    """Publishes `key` as the next one, unless somebody else has published one meanwhile."""
    await tx.execute(_LOCK)
    signs_from = await _next_turn(tx, now, lifetime)
    if signs_from is None:
        return
    tx.add(
        SigningKey(
            kid=key.kid,
            public_key=key.as_dict(private=False),
            sealed_private_key=sealer.seal(key.as_der(private=True), _purpose(key.kid)),
            created_at=now,
            signs_from=signs_from,
        )
    )


async def load(tx: Tx, sealer: Sealer) -> Ring:
    """All keys that are published."""
    rows = await _all(tx)
    return Ring([(row.signs_from, _opened(row, sealer)) for row in rows])


async def retire(tx: Tx, *, now: datetime) -> None:
    """Deletes the keys whose last token has expired."""
    rows = await _all(tx)
    for row, successor in pairwise(rows):
        if successor.signs_from + LONGEST_ACCESS + _GRACE <= now:
            await tx.delete(row)


async def _next_turn(tx: Tx, now: datetime, lifetime: timedelta) -> datetime | None:
    """When a key that is published now may sign; None: none is needed yet."""
    last = (await _all(tx))[-1:]
    if not last:
        return now  # the very first: nobody can know another
    turn = last[0].signs_from + lifetime
    return max(turn, now + PUBLISHED_BEFORE) if now >= turn - PUBLISHED_BEFORE else None


async def _all(tx: Tx) -> Sequence[SigningKey]:
    return (await tx.scalars(select(SigningKey).order_by(SigningKey.signs_from))).all()


def _opened(row: SigningKey, sealer: Sealer) -> RSAKey:
    der = sealer.open(row.sealed_private_key, _purpose(row.kid))
    parameters: Any = {**_PARAMETERS, "kid": row.kid}
    return RSAKey.import_key(der, parameters)


def _purpose(kid: str | None) -> str:
    return f"signing-key:{kid}"
