"""The dialects: one value each, all served by one engine."""

from vlinders_gateway.dialects.dialect import Dialect, Meta
from vlinders_gateway.dialects.lyss import LYSS
from vlinders_gateway.dialects.maas import MAAS
from vlinders_gateway.dialects.massrouter import MASSROUTER
from vlinders_gateway.dialects.owl import OWL
from vlinders_gateway.dialects.vlinders import VLINDERS

DIALECTS: tuple[Dialect, ...] = (VLINDERS, MAAS, MASSROUTER, LYSS, OWL)
"""All of them; the first is the canonical one, which also answers where no dialect's path is."""

CANONICAL = VLINDERS

__all__ = ["CANONICAL", "DIALECTS", "Dialect", "Meta"]
