"""Rates: how often whom the clients of a dialect may ask, as the contracts and the settings say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

MINUTE, HOUR = 60.0, 3600.0

_UNITS = {"min": MINUTE, "h": HOUR}
_TEXT = re.compile(r"([0-9]{1,9})(?:/(min|h))?")


class Rate(NamedTuple):
    """So many requests in any time of that length."""

    limit: int
    """0: as many as they like."""

    window: float = MINUTE
    """Seconds."""

    @staticmethod
    def read(text: str) -> "Rate":
        """What `1000/h` or `100/min` says; raises ValueError for what says no rate."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError("must be a number, and min or h, as in 1000/h")
        return Rate(int(found[1]), _UNITS[found[2] or "min"])


UNLIMITED = Rate(0)


@dataclass(frozen=True)
class Rates:
    """How often the clients of one dialect may ask."""

    known: Rate
    """Of one account with all its sessions, or of one API key that has no rate of its own."""

    anonymous: Rate
    """Of one client address, for all that comes without a valid credential."""

    plans: Mapping[str, Rate] = field(default_factory=dict)
    """Plan of the tenant → what holds in place of `known`."""

    writes: Rate | None = None
    """Of one client address, for writes that need no credential, as login; None: they count among
    what is anonymous."""

    calls: Rate = UNLIMITED
    """Calls of models, which are counted in addition."""

    def of(self, plan: str, own: Rate | None) -> Rate:
        """What holds for somebody on `plan`, whose API key may have a rate of its own."""
        return own or self.plans.get(plan, self.known)


def slowest(plans: Mapping[str, Rate]) -> Rate:
    """What holds for a plan that is not known: the least that any has."""
    limited = [rate for rate in plans.values() if rate.limit]
    return min(limited, key=lambda rate: rate.limit / rate.window, default=UNLIMITED)
