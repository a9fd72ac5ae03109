"""What has been tried on verifiers of JSON Web Tokens, and what passes for one of ours by mistake.

After RFC 8725, RFC 7515 to 7519, and what was found in libraries. Each is the value of an
`Authorization` header. Those that only auth could sign are signed by its key, so that what is tried
is the only thing that is wrong with them.
"""

import base64
import hashlib
import hmac
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

Json = Any
Vectors = Iterator[tuple[str, bytes]]

HEADER = {"alg": "RS256", "typ": "at+jwt", "kid": "k1"}
MALLORY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
"""A key that is none of auth's."""

_PKCS1 = padding.PKCS1v15()
_NOW = int(time.time())


def claims(**over: Json) -> dict[str, Json]:
    """What a token of auth's says; None takes a claim away."""
    usual = {
        "iss": "vlinders",
        "aud": "vlinders",
        "sub": "user_1",
        "sid": "ses_1",
        "tid": "tenant_1",
        "iat": _NOW,
        "exp": _NOW + 900,
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
    header: Json, payload: Json, key: rsa.RSAPrivateKey, *, digest: Any = None, pad: Any = _PKCS1
) -> bytes:
    """A token with a genuine signature of RSA, by default that of RS256."""
    text = said(header, payload)
    return text + b"." + part(key.sign(text, pad, digest or hashes.SHA256()))


def forged(key: rsa.RSAPrivateKey) -> dict[str, bytes]:
    """Everything that is tried, by name; `key` is auth's."""
    families = (
        _unsigned,
        _symmetric,
        _other_algorithms,
        _keys_of_their_own,
        _key_ids,
        _headers,
        _issued_otherwise,
        _times,
        _payloads,
        _spellings,
        _signatures,
        _shapes,
    )
    found = {
        f"{family.__name__.strip('_')}: {name}": b"Bearer " + token
        for family in families
        for name, token in family(key)
    }
    return found | {f"schemes: {name}": value for name, value in _schemes(key)}


def _unsigned(key: rsa.RSAPrivateKey) -> Vectors:
    genuine = signed(HEADER, claims(), key).rpartition(b".")[2]
    for alg in ("none", "None", "NONE", "nOnE", "none ", "\tnone", "non\u0435", "", None, [], {}):
        text = said({**HEADER, "alg": alg}, claims())
        yield f"alg {alg!r}", text + b"."
        yield f"alg {alg!r} with a signature", text + b"." + genuine
    yield "alg none and no other header", said({"alg": "none"}, claims()) + b"."
    yield "no alg", said({"typ": "at+jwt", "kid": "k1"}, claims()) + b"."
    yield "RS256 and no signature", said(HEADER, claims()) + b"."
    yield "no dot for a signature", said(HEADER, claims())


def _symmetric(key: rsa.RSAPrivateKey) -> Vectors:
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


def _other_algorithms(key: rsa.RSAPrivateKey) -> Vectors:
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    for alg, digest, pad in (
        ("RS384", hashes.SHA384(), _PKCS1),
        ("RS512", hashes.SHA512(), _PKCS1),
        ("PS256", hashes.SHA256(), pss),
        ("rs256", hashes.SHA256(), _PKCS1),
        ("RS256 ", hashes.SHA256(), _PKCS1),
        (["RS256"], hashes.SHA256(), _PKCS1),
        (256, hashes.SHA256(), _PKCS1),
        ("RSA-OAEP", hashes.SHA256(), _PKCS1),
        ("RS256", hashes.SHA512(), _PKCS1),
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


def _keys_of_their_own(key: rsa.RSAPrivateKey) -> Vectors:
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


def _key_ids(key: rsa.RSAPrivateKey) -> Vectors:
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


def _headers(key: rsa.RSAPrivateKey) -> Vectors:
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
        "a claim in the header": {"exp": _NOW + 900},
        "an encryption": {"enc": "A256GCM"},
        "anything else": {"x": 1},
    }.items():
        yield name, signed({**HEADER, **more}, claims(), key)
    text = part({**HEADER, "b64": False, "crit": ["b64"]}) + b"." + json.dumps(claims()).encode()
    yield "a payload as it is", text + b"." + part(key.sign(text, _PKCS1, hashes.SHA256()))
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


def _issued_otherwise(key: rsa.RSAPrivateKey) -> Vectors:
    wrong: Mapping[str, tuple[Json, ...]] = {
        "iss": ("evil", "Vlinders", "vlinders ", "https://vlinders", ["vlinders"], {}, 1, None),
        "aud": ("billing", "Vlinders", ["billing"], [], {}, 1, True, None),
        "sub": ("", 1, ["user_1"], {}, None),
        "sid": ("", 5, ["ses_1"], {"id": "ses_1"}, True, None),
    }
    for name, values in wrong.items():
        for value in values:
            yield f"{name} {value!r}", signed(HEADER, claims(**{name: value}), key)


def _times(key: rsa.RSAPrivateKey) -> Vectors:
    wrong: Mapping[str, tuple[Json, ...]] = {
        "exp": (
            _NOW - 60,
            0,
            -1,
            -(2**63),
            _NOW + 10 * 365 * 86_400,
            2**63,
            10**400,
            1e308,
            float(_NOW + 900),
            _NOW + 900.5,
            str(_NOW + 900),
            "never",
            True,
            [_NOW + 900],
            {},
            float("nan"),
            float("inf"),
            None,
        ),
        "nbf": (_NOW + 600, float(_NOW + 600), str(_NOW - 600), [], 2**63),
        "iat": (_NOW + 600, str(_NOW), "", [], float("nan"), None),
    }
    for name, values in wrong.items():
        for value in values:
            yield f"{name} {str(value)[:24]}", signed(HEADER, claims(**{name: value}), key)
    payload = json.dumps(claims()).replace(f'"exp": {_NOW + 900}', '"exp": null').encode()
    yield "exp null", signed(HEADER, payload, key)


def _payloads(key: rsa.RSAPrivateKey) -> Vectors:
    good = json.dumps(claims()).encode()
    inner = signed(HEADER, claims(), key)
    for name, payload in {
        "sub twice": good[:-1] + b', "sub": "user_2"}',
        "exp twice": b'{"exp": 1, ' + good[1:],
        "a token": inner,
        "a token as text": json.dumps(inner.decode()).encode(),
        "a list": b"[" + good + b"]",
        "text": b'"user_1"',
        "a number": b"1",
        "null": b"null",
        "nothing": b"",
        "not closed": good[:-1],
        "with more behind": good + b"{}",
        "not UTF-8": good[:-2] + b'\xff"}',
        "in UTF-16": good.decode().encode("utf-16-le"),
        "very deep": b"[" * 2000,
        "that says it is valid": b'{"valid": true, "admin": true}',
    }.items():
        yield name, signed(HEADER, payload, key)


def _spellings(key: rsa.RSAPrivateKey) -> Vectors:
    """Texts that a decoder in a good mood reads as a token of auth's."""
    token = signed(HEADER, claims(), key)
    for place, name in enumerate(("header", "payload", "signature")):
        for kind, change in _TWISTS.items():
            parts = token.split(b".")
            parts[place] = change(parts[place])
            if b".".join(parts) != token:
                yield f"{name} {kind}", b".".join(parts)
    yield "standard base64", base64.b64encode(b"\xfb\xff" + token) + b".e30.AA"
    yield "the dots escaped", token.replace(b".", b"%2E")
    yield "in quotes", b'"' + token + b'"'
    yield "in capitals", token.upper()
    yield "ideographic full stops", token.decode().replace(".", "。").encode()


_TWISTS: Mapping[str, Callable[[bytes], bytes]] = {
    "with padding": lambda text: text + b"=" * (-len(text) % 4 or 4),
    "with one sign of padding": lambda text: text + b"=",
    "in the standard alphabet": lambda text: text.replace(b"-", b"+").replace(b"_", b"/"),
    "with other last bits": lambda text: _other_last_bits(text),
    "with a space": lambda text: text[:9] + b" " + text[9:],
    "with a line feed": lambda text: text[:9] + b"\n" + text[9:],
    "with a null": lambda text: text + b"\x00",
    "with a sign of no alphabet": lambda text: text[:9] + b"*" + text[9:],
    "with a dash more": lambda text: text + b"-",
    "with a letter of another script": lambda text: text[:9] + "а".encode() + text[9:],
}


def _other_last_bits(text: bytes) -> bytes:
    """What decodes to the same bytes where the last bits that stand for nothing are ignored."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    if len(text) % 4 == 0:
        return text
    return text[:-1] + bytes([alphabet[alphabet.index(text[-1]) ^ 1]])


def _signatures(key: rsa.RSAPrivateKey) -> Vectors:
    token, other = signed(HEADER, claims(), key), signed(HEADER, claims(sub="user_2"), key)
    text, _, signature = token.rpartition(b".")
    raw = base64.urlsafe_b64decode(signature + b"==")
    modulus = key.public_key().public_numbers().n
    yield "another key's", signed(HEADER, claims(), MALLORY)
    yield "another token's", text + b"." + other.rpartition(b".")[2]
    head = token.partition(b".")[0]
    yield "of another payload", head + b"." + part(claims(sub="user_9")) + b"." + signature
    yield "of another header", part({**HEADER, "kid": "k1", "x": 1}) + token[len(head) :]
    yield "of SHA-1", text + b"." + part(key.sign(text, _PKCS1, hashes.SHA1()))
    only = key.sign(text.split(b".")[1], _PKCS1, hashes.SHA256())
    yield "of the payload alone", text + b"." + part(only)
    for name, value in {
        "one byte short": raw[:-1],
        "half": raw[:128],
        "with a null behind": raw + b"\x00",
        "with a null before": b"\x00" + raw,
        "reversed": raw[::-1],
        "nulls": bytes(256),
        "one": (1).to_bytes(256, "big"),
        "the modulus": modulus.to_bytes(256, "big"),
        "more than the modulus": (int.from_bytes(raw, "big") + modulus).to_bytes(257, "big"),
        "ones": b"\xff" * 256,
        "the digest": hashlib.sha256(text).digest(),
    }.items():
        yield name, text + b"." + part(value)


def _shapes(key: rsa.RSAPrivateKey) -> Vectors:
    token = signed(HEADER, claims(), key)
    header, payload, signature = token.split(b".")
    flat = {"protected": header.decode(), "payload": payload.decode()}
    jwe = part({"alg": "RSA-OAEP", "enc": "A256GCM", "kid": "k1"})
    yield from {
        "swapped": payload + b"." + header + b"." + signature,
        "turned": signature + b"." + payload + b"." + header,
        "no payload": header + b".." + signature,
        "detached": header + b"..",
        "four parts": token + b"." + signature,
        "a dot more": token + b".",
        "a dot before": b"." + token,
        "two dots": b"..",
        "the JSON serialization": json.dumps(flat | {"signature": signature.decode()}).encode(),
        "JWE": b".".join((jwe, payload, part(bytes(12)), payload, part(bytes(16)))),
        "JWE with a direct key": part({"alg": "dir", "enc": "A128GCM"}) + b"....",
        "JWE that is empty": part({**HEADER, "enc": "A128GCM"}) + b"....",
        "two tokens": token + b"," + token,
        "cut short": token[: len(token) // 2],
        "nothing": b"",
        "blanks": b"   ",
        "a megabyte's beginning": b"eyJ" + b"A" * 20_000 + b".e30.AA",
        "a space before": b" " + token,
    }.items()


def _schemes(key: rsa.RSAPrivateKey) -> Vectors:
    token = signed(HEADER, claims(), key)
    yield "no scheme", token
    yield "Basic", b"Basic " + base64.b64encode(b"user:" + token)
    for scheme in (b"JWT", b"Token", b"Digest", b"Bearer:", b"Bearer=", b"BearerBearer"):
        yield scheme.decode(), scheme + b" " + token
    yield "twice", b"Bearer Bearer " + token
    yield "a tab", b"Bearer\t" + token
