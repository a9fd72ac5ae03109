"""Access tokens: JSON Web Tokens (RFC 9068) that say whose session it is, for a short while."""

from datetime import datetime, timedelta

from joserfc import jwt
from joserfc.jwk import RSAKey

from vlinders_auth.models import Account, Session
from vlinders_kit.ids import new_id

ALGORITHM = "RS256"
TYPE = "at+jwt"
"""So that no other token that these keys may ever sign passes for one (RFC 8725 3.11)."""


def issue(
    session: Session,
    account: Account,
    key: RSAKey,
    *,
    issuer: str,
    audience: str,
    lifetime: timedelta,
    now: datetime,
) -> str:
    """A token of the session, signed with `key`.

    It says who, not what he may do: that is asked for where it matters, as it is then.
    """
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": account.id,
        "sid": session.id,
        "tid": account.tenant_id,
        "iat": int(now.timestamp()),
        "exp": int((now + lifetime).timestamp()),
        "jti": new_id("token"),
    }
    header = {"alg": ALGORITHM, "typ": TYPE, "kid": key.kid}
    return jwt.encode(header, claims, key, algorithms=[ALGORITHM])
