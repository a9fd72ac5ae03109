"""API keys as text: how one is made, told from a mistyped one, and kept without being kept.

A prefix that says whose clients it is for, 32 random base62 digits (190 bits, of which `prefix_of`
shows 36 at most), then the CRC-32 of all that in six base62 digits. Length and alphabet are fixed,
so what is no key is refused without asking anybody.
"""

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass

from vlinders_kit.ids import base62

_RANDOM = 32
_CHECKSUM = 6
"""Base62 digits that hold 32 bits."""


@dataclass(frozen=True)
class Form:
    """What the keys of one API look like."""

    prefix: str
    shown: int
    """Characters by which its owner knows a key again, those of the prefix among them."""


VLINDERS = Form("vlinders_sk_live_", shown=21)
MASSROUTER = Form("mr_sk_", shown=12)
FORMS = (VLINDERS, MASSROUTER)
"""All that there are; none's prefix begins another's."""

_WELL_FORMED = re.compile(
    rf"({'|'.join(form.prefix for form in FORMS)})[0-9A-Za-z]{{{_RANDOM + _CHECKSUM}}}", re.ASCII
)
_BY_PREFIX = {form.prefix: form for form in FORMS}


def new(form: Form = VLINDERS) -> str:
    """A key that nobody has."""
    body = form.prefix + base62(secrets.randbelow(62**_RANDOM), _RANDOM)
    return body + _checksum(body)


def is_well_formed(text: str) -> bool:
    """Whether `text` could be a key: its form and checksum are right. Says nothing of its worth."""
    if _WELL_FORMED.fullmatch(text) is None:
        return False
    return _checksum(text[:-_CHECKSUM]) == text[-_CHECKSUM:]


def digest(text: str) -> bytes:
    """What is stored and asked for instead of the key: its SHA-256.

    No salt and no stretching: the key is random, so there is nothing to guess.
    """
    return hashlib.sha256(text.encode()).digest()


def prefix_of(text: str) -> str:
    """The first characters of a key, by which its owner knows it again; as many as its form shows.

    Raises ValueError for what has the form of no key.
    """
    found = _WELL_FORMED.fullmatch(text)
    if found is None:
        raise ValueError("this is no API key")
    return text[: _BY_PREFIX[found[1]].shown]


def _checksum(body: str) -> str:
    return base62(zlib.crc32(body.encode()), _CHECKSUM)
