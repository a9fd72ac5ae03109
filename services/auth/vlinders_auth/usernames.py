"""Usernames: made for those who are not asked for one."""

import re
import secrets
from collections.abc import Iterator

SHORTEST = 3
LONGEST = 50
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def derive(email: str) -> Iterator[str]:
    """Usernames for the owner of `email`, the nicest first, without end.

    The first is the local part, in lower case and without what a username may not have
    (`[a-z0-9_.-]`, 3 to 50 characters); the others have a random suffix that becomes longer.
    """
    stem = re.sub(r"[^a-z0-9_.-]", "", email.partition("@")[0].lower()).strip(".-")
    stem = stem or "user"
    if len(stem) >= SHORTEST:
        yield stem[:LONGEST]
    length = 4
    while True:
        suffix = "".join(secrets.choice(_DIGITS) for _ in range(length))
        yield f"{stem[: LONGEST - length - 1]}-{suffix}"
        length = min(length + 1, 20)
