"""Tokens whose headers say what no verifier may go by: algorithms, keys, where to find them."""

import base64
import hashlib
import hmac
import json
import zlib
from collections.abc import Iterator

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from .token_parts import HEADER, MALLORY, NOW, PKCS1, claims, part, said, signed

Vectors = Iterator[tuple[str, bytes]]


def unsigned(key: rsa.RSAPrivateKey) -> Vectors:
    genuine = signed(HEADER, claims(), key).rpartition(b".")[2]
    for alg in ("none", "None", "NONE", "nOnE", "none ", "\tnone", "non\u0435", "", None, [], {}):
        text = said({**HEADER, "alg": alg}, claims())
        yield f"alg {alg!r}", text + b"."
        yield f"alg {alg!r} with a signature", text + b"." + genuine
    yield "alg none and no other header", said({"alg": "none"}, claims()) + b"."
    yield "no alg", said({"typ": "at+jwt", "kid": "k1"}, claims()) + b"."
    yield "RS256 and no signature", said(HEADER, claims()) + b"."
    yield "no dot for a signature", said(HEADER, claims())


def symmetric(key: rsa.RSAPrivateKey) -> Vectors:
    """The public key, in each spelling that it may be found in, as the secret of an HMAC."""
    public = key.public_key()
    forms, spelt = serialization.PublicFormat, serialization.Encoding
    spki = public.public_bytes(spelt.PEM, forms.SubjectPublicKeyInfo)
    number = public.public_numbers().n.to_bytes(256, "big")
    jwk = {"kty": "RSA", "n": part(number).decode(), "e": "AQAB"}
    secrets = {
        "SPKI PEM": spki,
        "SPKI PEM without its last newline": spki.rstrip(),
        "SPKI PEM with CRLF": spki.replace(b"\n", b"\r\n"),
        "SPKI PEM in one line": b"".join(spki.splitlines()[1:-1]),
        "SPKI DER": public.public_bytes(spelt.DER, forms.SubjectPublicKeyInfo),
        "PKCS1 PEM": public.public_bytes(spelt.PEM, forms.PKCS1),
        "PKCS1 DER": public.public_bytes(spelt.DER, forms.PKCS1),
        "OpenSSH": public.public_bytes(spelt.OpenSSH, forms.OpenSSH),
        "JWK": json.dumps(jwk).encode(),
        "JWK without spaces": json.dumps(jwk, separators=(",", ":")).encode(),
        "the modulus": number,
        "the modulus as text": part(number),
        "the key id": b"k1",
        "nothing": b"",
    }
    for name, secret in secrets.items():
        text = said({**HEADER, "alg": "HS256"}, claims())
        yield f"HS256 with {name}", text + b"." + part(hmac.digest(secret, text, "sha256"))
    for alg, digest in (("HS384", "sha384"), ("HS512", "sha512"), ("RS256", "sha256")):
        text = said({**HEADER, "alg": alg}, claims())
        yield f"an HMAC called {alg}", text + b"." + part(hmac.digest(spki, text, digest))


def other_algorithms(key: rsa.RSAPrivateKey) -> Vectors:
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    for alg, digest, pad in (
        ("RS384", hashes.SHA384(), PKCS1),
        ("RS512", hashes.SHA512(), PKCS1),
        ("PS256", hashes.SHA256(), pss),
        ("rs256", hashes.SHA256(), PKCS1),
        ("RS256 ", hashes.SHA256(), PKCS1),
        (["RS256"], hashes.SHA256(), PKCS1),
        (256, hashes.SHA256(), PKCS1),
        ("RSA-OAEP", hashes.SHA256(), PKCS1),
        ("RS256", hashes.SHA512(), PKCS1),
        ("RS256", hashes.SHA256(), pss),
    ):
        token = signed({**HEADER, "alg": alg}, claims(), key, digest=digest, pad=pad)
        yield f"{alg} by {digest.name} and {pad.name}", token
    text = said({**HEADER, "alg": "ES256"}, claims())
    curve = ec.generate_private_key(ec.SECP256R1())
    yield "ES256", text + b"." + part(curve.sign(text, ec.ECDSA(hashes.SHA256()))[:64])
    yield "ES256 of nulls", text + b"." + part(bytes(64))
    text = said({**HEADER, "alg": "EdDSA"}, claims())
    yield "EdDSA", text + b"." + part(ed25519.Ed25519PrivateKey.generate().sign(text))


def keys_of_their_own(key: rsa.RSAPrivateKey) -> Vectors:
    number = MALLORY.public_key().public_numbers().n.to_bytes(256, "big")
    jwk = {"kty": "RSA", "n": part(number).decode(), "e": "AQAB", "kid": "k1"}
    der = MALLORY.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    thumb = part(hashlib.sha256(der).digest()).decode()
    for name, more in {
        "jwk": {"jwk": jwk},
        "jwk that is symmetric": {"jwk": {"kty": "oct", "k": "AAAA"}},
        "jku": {"jku": "https://evil.example/jwks.json"},
        "jku of a file": {"jku": "file:///proc/self/environ"},
        "jku within": {"jku": "http://127.0.0.1/.well-known/jwks.json"},
        "x5u": {"x5u": "https://evil.example/chain.pem"},
        "x5c": {"x5c": [base64.b64encode(der).decode()]},
        "x5t": {"x5t": thumb[:27]},
        "x5t#S256": {"x5t#S256": thumb},
    }.items():
        yield name, signed({**HEADER, **more}, claims(), MALLORY)
        yield f"{name}, and auth's signature", signed({**HEADER, **more}, claims(), key)
    yield (
        "a jwk in place of a kid",
        signed({"alg": "RS256", "typ": "at+jwt", "jwk": jwk}, claims(), MALLORY),
    )


def key_ids(key: rsa.RSAPrivateKey) -> Vectors:
    for kid in (
        "k2",
        "K1",
        "k1 ",
        "k1\x00",
        "k1\n",
        "k１",
        "../../../../dev/null",
        "/proc/sys/kernel/randomize_va_space",
        "..\\..\\k1",
        "k1' OR '1'='1",
        "x' UNION SELECT 'AAAA'; --",
        "k1; sleep 10",
        "$(id)",
        "https://evil.example/jwks.json#k1",
        "k" * 3000,
        "",
        None,
        1,
        True,
        ["k1"],
        {"kid": "k1"},
    ):
        yield f"kid {str(kid)[:40]!r}", signed({**HEADER, "kid": kid}, claims(), key)
    text = said({**HEADER, "alg": "HS256", "kid": "../../../../dev/null"}, claims())
    yield "an empty file as a secret", text + b"." + part(hmac.digest(b"", text, "sha256"))
    yield "no kid", signed({"alg": "RS256", "typ": "at+jwt"}, claims(), key)


def headers(key: rsa.RSAPrivateKey) -> Vectors:
    for typ in ("JWT", "jwt", "rt+jwt", "at+jwt ", "AT+JWT", "application/at+jwt", "", None, 1):
        yield f"typ {typ!r}", signed({**HEADER, "typ": typ}, claims(), key)
    yield "no typ", signed({"alg": "RS256", "kid": "k1"}, claims(), key)
    packed = zlib.compressobj(wbits=-15)
    squeezed = packed.compress(json.dumps(claims()).encode()) + packed.flush()
    yield "zip", signed({**HEADER, "zip": "DEF"}, squeezed, key)
    for name, more in {
        "crit of what is not known": {"crit": ["exp2"], "exp2": 1},
        "crit of what is known": {"crit": ["alg"]},
        "crit of nothing": {"crit": []},
        "crit that is no list": {"crit": "exp"},
        "b64": {"b64": False},
        "b64 and crit": {"b64": False, "crit": ["b64"]},
        "cty": {"cty": "JWT"},
        "a claim in the header": {"exp": NOW + 900},
        "an encryption": {"enc": "A256GCM"},
        "anything else": {"x": 1},
    }.items():
        yield name, signed({**HEADER, **more}, claims(), key)
    text = part({**HEADER, "b64": False, "crit": ["b64"]}) + b"." + json.dumps(claims()).encode()
    yield "a payload as it is", text + b"." + part(key.sign(text, PKCS1, hashes.SHA256()))
    for name, header in {
        "alg twice, none first": b'{"alg":"none","alg":"RS256","typ":"at+jwt","kid":"k1"}',
        "alg twice, none last": b'{"alg":"RS256","typ":"at+jwt","kid":"k1","alg":"none"}',
        "kid twice": b'{"alg":"RS256","typ":"at+jwt","kid":"k2","kid":"k1"}',
        "an escaped member twice": b'{"alg":"none","\\u0061lg":"RS256","typ":"at+jwt","kid":"k1"}',
        "a list": b'["RS256","at+jwt","k1"]',
        "empty": b"{}",
        "text": b'"RS256"',
        "not closed": b'{"alg":"RS256","typ":"at+jwt","kid":"k1"',
        "with more behind": b'{"alg":"RS256","typ":"at+jwt","kid":"k1"}{}',
        "in UTF-16": '{"alg":"RS256","typ":"at+jwt","kid":"k1"}'.encode("utf-16"),
        "with a mark of its order": b'\xef\xbb\xbf{"alg":"RS256","typ":"at+jwt","kid":"k1"}',
        "very deep": b'{"alg":' * 600,
    }.items():
        yield f"a header {name}", signed(header, claims(), key)
