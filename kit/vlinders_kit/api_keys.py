"""API keys as text: how one is made, told from a mistyped one, and kept without being kept.

`vlinders_sk_live_`, 32 random base62 digits (190 bits, of which `prefix_of` shows 24), then the
CRC-32 of all that in six base62 digits. Length and alphabet are fixed, so what is no key is refused
without asking anybody.
"""

import hashlib
import re
import secrets
import zlib

from vlinders_kit.ids import base62

PREFIX = "vlinders_sk_live_"
_RANDOM = 32
_CHECKSUM = 6
"""Base62 digits that hold 32 bits."""
_SHOWN = len(PREFIX) + 4
_FORM = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM + _CHECKSUM}}}", re.ASCII)


def new() -> str:
    """A key that nobody has."""
    body = PREFIX + base62(secrets.randbelow(62**_RANDOM), _RANDOM)
    return body + _checksum(body)


def is_well_formed(text: str) -> bool:
    """Whether `text` could be a key: its form and checksum are right. Says nothing of its worth."""
    if _FORM.fullmatch(text) is None:
        return False
    return _checksum(text[:-_CHECKSUM]) == text[-_CHECKSUM:]


def digest(text: str) -> bytes:
    """What is stored and asked for instead of the key: its SHA-256.

    No salt and no stretching: the key is random, so there is nothing to guess.
    """
    return hashlib.sha256(text.encode()).digest()


def prefix_of(text: str) -> str:
    """The first 21 characters, by which its owner knows a key again."""
    return text[:_SHOWN]


def _checksum(body: str) -> str:
    return base62(zlib.crc32(body.encode()), _CHECKSUM)
