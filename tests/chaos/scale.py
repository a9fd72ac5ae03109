"""How much of each fault a run brings: a little in `make test`, the full in `make chaos`."""

import os
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("VLINDERS_CHAOS") == "long"


def scaled(short: T, long: T) -> T:
    """What fits this run."""
    return long if LONG else short
