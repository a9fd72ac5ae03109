"""The dialects: one value each, all served by one engine."""

from vlinders_gateway.dialects.dialect import Dialect, Meta
from vlinders_gateway.dialects.vlinders import VLINDERS

DIALECTS: tuple[Dialect, ...] = (VLINDERS,)
"""All of them; the first is the canonical one, which also answers where no dialect's path is."""

CANONICAL = VLINDERS

__all__ = ["CANONICAL", "DIALECTS", "Dialect", "Meta"]
