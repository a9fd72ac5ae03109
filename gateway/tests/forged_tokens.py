"""What has been tried on verifiers of JSON Web Tokens, and what passes for one of ours by mistake.

After RFC 8725, RFC 7515 to 7519, and what was found in libraries. Each is the value of an
`Authorization` header. Those that only auth could sign are signed by its key, so that what is tried
is the only thing that is wrong with them.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from . import forged_heads as heads
from .token_parts import HEADER, MALLORY, NOW, PKCS1, Json, claims, part, signed

Vectors = Iterator[tuple[str, bytes]]


def forged(key: rsa.RSAPrivateKey) -> dict[str, bytes]:
    """Everything that is tried, by name; `key` is auth's."""
    families = (
        heads.unsigned,
        heads.symmetric,
        heads.other_algorithms,
        heads.keys_of_their_own,
        heads.key_ids,
        heads.headers,
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
            NOW - 60,
            0,
            -1,
            -(2**63),
            NOW + 10 * 365 * 86_400,
            2**63,
            10**400,
            1e308,
            float(NOW + 900),
            NOW + 900.5,
            str(NOW + 900),
            "never",
            True,
            [NOW + 900],
            {},
            float("nan"),
            float("inf"),
            None,
        ),
        "nbf": (NOW + 600, float(NOW + 600), str(NOW - 600), [], 2**63),
        "iat": (NOW + 600, str(NOW), "", [], float("nan"), None),
    }
    for name, values in wrong.items():
        for value in values:
            yield f"{name} {str(value)[:24]}", signed(HEADER, claims(**{name: value}), key)
    payload = json.dumps(claims()).replace(f'"exp": {NOW + 900}', '"exp": null').encode()
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
    yield "of SHA-1", text + b"." + part(key.sign(text, PKCS1, hashes.SHA1()))
    only = key.sign(text.split(b".")[1], PKCS1, hashes.SHA256())
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
