"""What tokens are put together from, in tests: genuine parts, and signatures by anybody's key."""

import base64
import json
import time
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

Json = Any

HEADER = {"alg": "RS256", "typ": "at+jwt", "kid": "k1"}
MALLORY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
"""A key that is none of auth's."""

PKCS1 = padding.PKCS1v15()
NOW = int(time.time())


def claims(**over: Json) -> dict[str, Json]:
    """What a token of auth's says; None takes a claim away."""
    usual = {
        "iss": "vlinders",
        "aud": "vlinders",
        "sub": "user_1",
        "sid": "ses_1",
        "tid": "tenant_1",
        "iat": NOW,
        "exp": NOW + 900,
        "jti": "j1",
    }
    return {name: value for name, value in (usual | over).items() if value is not None}


def part(value: Json) -> bytes:
    """A part of a token: bytes as they are, anything else as JSON."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def said(header: Json, payload: Json) -> bytes:
    return part(header) + b"." + part(payload)


def signed(
    header: Json, payload: Json, key: rsa.RSAPrivateKey, *, digest: Any = None, pad: Any = PKCS1
) -> bytes:
    """A token with a genuine signature of RSA, by default that of RS256."""
    text = said(header, payload)
    return text + b"." + part(key.sign(text, pad, digest or hashes.SHA256()))
