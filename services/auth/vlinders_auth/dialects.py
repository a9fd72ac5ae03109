"""Dialects of the API, as far as they differ in rules: lifetimes, passwords, keys.

One account is used through all of them. How each spells things is the gateway's affair.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from vlinders_auth.errors import PasswordTooShort
from vlinders_kit import api_keys


class Refreshes(Enum):
    """What a session's refresh token does, which depends on what its clients can be told."""

    STAY = "stay"
    """It is good for as long as the session: an answer has no place for another."""

    ROTATE = "rotate"
    """Each use trades it for its successor."""

    NEVER = "never"
    """There is none."""


@dataclass(frozen=True)
class Keys:
    """What the API keys of a dialect are like."""

    form: api_keys.Form
    permissions: frozenset[str]
    """What they can be allowed."""

    hourly_limit: int | None
    """Requests an hour that a key may make whose maker says nothing; None: they are not counted by
    the hour, whatever he says."""


_KEYS = Keys(
    api_keys.VLINDERS,
    frozenset({"inference:read", "inference:write", "usage:read"}),
    hourly_limit=None,
)
_HOURLY_KEYS = Keys(api_keys.MASSROUTER, frozenset({"all:read", "all:write"}), hourly_limit=1000)


@dataclass(frozen=True)
class Rules:
    """What holds for whoever comes through one dialect."""

    name: str
    access_lifetime: timedelta
    """Of an access token."""

    refreshes: Refreshes
    shortest_password: int = 8
    """Characters."""

    keys: Keys = _KEYS
    needs_change: bool = False
    """Whether a change of nothing is a mistake, which its clients are told."""

    oauth_callback: str = "/vlinders/v1/auth/oauth/{provider}/callback"
    """Where providers send browsers back to, as it is written down there, too: below the dialect's
    mount, where the browser's cookie is."""

    def require_long(self, password: str, field: str) -> None:
        """Raises PasswordTooShort, telling the field of the request that has it."""
        if len(password) < self.shortest_password:
            raise PasswordTooShort(field=field, shortest=self.shortest_password)


CANONICAL = Rules("vlinders", timedelta(minutes=15), Refreshes.STAY, needs_change=True)
"""Of the API that the contracts declare."""

_BY_NAME: Mapping[str, Rules] = {
    rules.name: rules
    for rules in (
        CANONICAL,
        Rules("maas", timedelta(hours=1), Refreshes.ROTATE),
        Rules(
            "massrouter",
            timedelta(hours=1),
            Refreshes.ROTATE,
            keys=_HOURLY_KEYS,
            oauth_callback="/massrouter/api/v1/auth/oauth/{provider}/callback",
        ),
        Rules("lyss", timedelta(minutes=30), Refreshes.NEVER),
        Rules("owl", timedelta(minutes=30), Refreshes.NEVER, shortest_password=6),
    )
}

LONGEST_ACCESS = max(rules.access_lifetime for rules in _BY_NAME.values())
"""No access token outlives it."""


def rules_of(name: str) -> Rules:
    """The rules of a dialect; the canonical ones for a name that has none of its own."""
    return _BY_NAME.get(name, CANONICAL)
