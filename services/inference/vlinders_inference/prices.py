"""Arithmetic of prices: no database, no clock, no await."""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from msgspec import Struct

NANOS = Decimal(1_000_000_000)
"""Nanos of one currency unit."""

DEAREST = 1_000_000_000_000
"""Nanos that a token may cost at most; what the contract of prices allows."""


class NotAPrice(ValueError):
    """The text is no price; the message says what to write instead."""


class Tokens(Struct, frozen=True):
    """What a request used, in disjoint buckets: `input` excludes what was `cached`."""

    input: int = 0
    cached: int = 0
    output: int = 0
    estimated: bool = False
    """Counted or bounded by us, because the engine did not say, or said what cannot be."""

    @property
    def prompt(self) -> int:
        return self.input + self.cached


NONE = Tokens()


@dataclass(frozen=True, slots=True)
class Price:
    """Nanos per token, in the version that a charge is explained by."""

    version: str
    input: int
    cached_input: int
    output: int

    def ceiling(self, prompt_tokens: int, output_tokens: int) -> int:
        """The most that a request within these bounds costs, however much of it is cached."""
        return prompt_tokens * max(self.input, self.cached_input) + output_tokens * self.output

    def charge(self, tokens: Tokens, ceiling: int) -> int:
        """What `tokens` cost, never more than the request was admitted with."""
        cost = (
            tokens.input * self.input
            + tokens.cached * self.cached_input
            + tokens.output * self.output
        )
        return min(cost, ceiling)


def nanos_per_token(written: object) -> int:
    """The price in nanos that a configuration names in currency units, as "0.000002".

    Raises NotAPrice for what is no decimal number, negative, too dear, or finer than a nano:
    rounding would charge something else than what was written.
    """
    if isinstance(written, bool) or not isinstance(written, str | int):
        raise NotAPrice('must be a decimal number in quotes, as "0.000002"')
    try:
        nanos = Decimal(written) * NANOS
    except InvalidOperation:
        raise NotAPrice('must be a decimal number in quotes, as "0.000002"') from None
    if not nanos.is_finite() or nanos < 0 or nanos > DEAREST:
        raise NotAPrice(f"must be from 0 to {DEAREST / NANOS} currency units per token")
    if nanos != nanos.to_integral_value():
        raise NotAPrice("must be a multiple of a billionth of the currency unit")
    return int(nanos)
