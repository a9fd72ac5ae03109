"""Prices: exact, and never more than was set aside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlinders_inference.prices import NotAPrice, Price, Tokens, nanos_per_token

NANOS = st.integers(0, 10**12)
TOKENS = st.integers(0, 10**7)


@pytest.mark.parametrize(
    ("written", "nanos"),
    [("0.000001", 1_000), ("1e-9", 1), ("0", 0), (2, 2 * 10**9), ("0.000000001", 1)],
)
def test_a_price_is_read_exactly(written: object, nanos: int) -> None:
    assert nanos_per_token(written) == nanos


@pytest.mark.parametrize(
    "written",
    ["0.0000000001", "1.0000000001", "-1", "NaN", "Infinity", "", "one", "1001", 0.1, True, None],
)
def test_what_is_no_price_is_refused(written: object) -> None:
    with pytest.raises(NotAPrice):
        nanos_per_token(written)


@given(NANOS, NANOS, NANOS, TOKENS, TOKENS, TOKENS, st.integers(0, 10**20))
def test_a_charge_is_the_sum_of_the_buckets_up_to_the_ceiling(
    a: int, b: int, c: int, input: int, cached: int, output: int, ceiling: int
) -> None:
    charge = Price("v", a, b, c).charge(Tokens(input, cached, output), ceiling)

    assert charge == min(a * input + b * cached + c * output, ceiling)


@given(NANOS, NANOS, NANOS, TOKENS, TOKENS, TOKENS)
def test_a_ceiling_covers_every_split_of_the_prompt(
    a: int, b: int, c: int, input: int, cached: int, output: int
) -> None:
    price = Price("v", a, b, c)

    ceiling = price.ceiling(input + cached, output)

    assert price.charge(Tokens(input, cached, output), 10**30) <= ceiling
