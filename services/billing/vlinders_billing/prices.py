"""Arithmetic of prices: no database, no clock, integers only."""

from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

NANOS = 1_000_000_000
"""Nanos of one unit of the currency."""


class Tokens(NamedTuple):
    """What one request used, in disjoint buckets."""

    input: int
    """Of the prompt, without those that were cached."""
    cached_input: int
    output: int


@dataclass(frozen=True, slots=True)
class Price:
    """What a token of each bucket costs, in nanos."""

    input_nanos: int
    cached_input_nanos: int
    output_nanos: int

    def of(self, tokens: Tokens) -> int:
        """What these tokens cost, exactly: the sum over the buckets of tokens × price."""
        return (
            tokens.input * self.input_nanos
            + tokens.cached_input * self.cached_input_nanos
            + tokens.output * self.output_nanos
        )


def nanos_of(units: Decimal) -> int:
    """An amount in units of the currency, in nanos. Raises ValueError if it is finer."""
    nanos = units * NANOS
    if nanos != nanos.to_integral_value():
        raise ValueError(f"{units} is finer than a billionth")
    return int(nanos)
