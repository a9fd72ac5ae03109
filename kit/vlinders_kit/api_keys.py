"""API keys as texts: a prefix that scanners know, 32 random base62 digits, and a checksum.

The form follows the platforms whose tokens secret scanners find: what is cut short, mistyped or
made up is told apart without asking anybody.
"""

import hashlib
import secrets
import zlib
from collections.abc import Callable

from vlinders_kit.ids import base62

PREFIX = "vlinders_sk_live_"
HINT_LENGTH = len(PREFIX) + 4
"""Characters of a key that its owner may see later. Those they leave hidden hold 166 bits."""

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM = 32
_CHECKSUM = 6
_LENGTH = len(PREFIX) + _RANDOM + _CHECKSUM


def generate(choose: Callable[[str], str] = secrets.choice) -> str:
    """A new key with 190 random bits."""
    body = PREFIX + "".join(choose(_ALPHABET) for _ in range(_RANDOM))
    return body + _checksum(body)


def is_well_formed(text: str) -> bool:
    """Whether `text` may be a key: its form and its checksum are right."""
    return (
        len(text) == _LENGTH
        and text.startswith(PREFIX)
        and text.isascii()
        and text[len(PREFIX) :].isalnum()
        and text[-_CHECKSUM:] == _checksum(text[:-_CHECKSUM])
    )


def digest(key: str) -> bytes:
    """What is kept of a key: its SHA-256. Enough for 190 random bits; a slow hash is for passwords."""
    return hashlib.sha256(key.encode()).digest()


def hint(key: str) -> str:
    """The first characters, for its owner to know it by."""
    return key[:HINT_LENGTH]


def _checksum(body: str) -> str:
    """CRC-32 of all that stands before it, in base62. It finds slips, it proves nothing."""
    return base62(zlib.crc32(body.encode()), _CHECKSUM)
