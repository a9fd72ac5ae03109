"""Ids: UUIDv7 (RFC 9562), so that they sort by time, spelt as a prefix and 22 base62 digits."""

import os
import time
from collections.abc import Callable
from uuid import UUID

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]
"""Two digits at a time: every request has an id, and most of its price is division."""

_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_LENGTH = 22
"""Digits of base62 that hold 128 bits. They are in ASCII order: texts sort as their numbers do."""


def uuid7(
    now_ns: Callable[[], int] = time.time_ns, random: Callable[[int], bytes] = os.urandom
) -> UUID:
    """A UUIDv7 with 12 bits of the fraction of its millisecond, as RFC 9562 6.2 method 3 allows."""
    return UUID(int=_number(now_ns(), random(8)))


def new_id(prefix: str, random: Callable[[int], bytes] = os.urandom) -> str:
    """A new id, for example `key_01Jx…` for the prefix `key`."""
    return f"{prefix}_{base62(_number(time.time_ns(), random(8)), _LENGTH)}"


def spell(prefix: str, id: UUID) -> str:
    """`id` with its prefix; every id of a prefix has the same length."""
    return f"{prefix}_{base62(id.int, _LENGTH)}"


def read(prefix: str, text: str) -> UUID | None:
    """The UUID that `spell` wrote, or None if `text` is no id of this prefix."""
    head, _, digits = text.rpartition("_")
    if head != prefix or len(digits) != _LENGTH or not digits.isascii() or not digits.isalnum():
        return None
    number = 0
    for digit in digits:
        number = number * 62 + _VALUES[digit]
    return UUID(int=number) if number < 1 << 128 else None


def _number(now_ns: int, chance: bytes) -> int:
    ms, rest = divmod(now_ns, 1_000_000)
    fraction = rest * 4096 // 1_000_000
    tail = int.from_bytes(chance, "big") >> 2
    return (ms & (1 << 48) - 1) << 80 | 7 << 76 | fraction << 64 | 2 << 62 | tail


def base62(number: int, length: int) -> str:
    """`number` in `length` digits 0-9A-Za-z, highest first."""
    digits = []
    for _ in range(length // 2):
        number, value = divmod(number, 3844)
        digits.append(_PAIRS[value])
    if length % 2:
        digits.append(_DIGITS[number % 62])
    digits.reverse()
    return "".join(digits)
