"""Prices are exact: what the tokens cost, to the nano, however many."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlinders_billing.prices import Price, Tokens, nanos_of

NANOS = st.integers(0, 10**12)
COUNTS = st.integers(0, 10**9)


@given(NANOS, NANOS, NANOS, COUNTS, COUNTS, COUNTS)
def test_a_charge_is_the_exact_sum_of_fractions(
    input_nanos: int, cached_nanos: int, output_nanos: int, fresh: int, cached: int, output: int
) -> None:
    charge = Price(input_nanos, cached_nanos, output_nanos).of(Tokens(fresh, cached, output))

    unit = Fraction(1, 10**9)
    exact = fresh * input_nanos * unit + cached * cached_nanos * unit + output * output_nanos * unit
    assert charge * unit == exact
    assert isinstance(charge, int)


@pytest.mark.parametrize(
    ("units", "nanos"),
    [("0", 0), ("10", 10_000_000_000), ("0.000000001", 1), ("0.0000001", 100), ("1E+3", 10**12)],
)
def test_units_become_nanos_exactly(units: str, nanos: int) -> None:
    assert nanos_of(Decimal(units)) == nanos


def test_what_is_finer_than_a_nano_is_refused() -> None:
    with pytest.raises(ValueError, match="finer"):
        nanos_of(Decimal("0.0000000001"))
