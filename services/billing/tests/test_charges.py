"""Charges: never more than the ceiling, never less than can be proved, whatever is reported."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from vlinders.inference.v1.events_pb2 import UsageRecorded
from vlinders_billing.charges import MOST_NANOS, MOST_TOKENS, Charge, Flag, due
from vlinders_billing.prices import Price

NOW = datetime(2026, 7, 1, tzinfo=UTC)
PRICE = Price(input_nanos=2, cached_input_nanos=1, output_nanos=5)
INT64 = st.integers(-(2**63), 2**63 - 1)


def charged(price: Price | None = PRICE, **over: Any) -> Charge:
    """By default 10 × 2 + 20 × 1 + 30 × 5 = 190 nanos."""
    usual: dict[str, Any] = {
        "input_tokens": 10,
        "cached_input_tokens": 20,
        "output_tokens": 30,
        "ceiling_nanos": 1_000,
        "charged_nanos": 190,
        "finished_at": Timestamp(seconds=int(NOW.timestamp())),
    }
    return due(UsageRecorded(**{**usual, **over}), price, NOW)


@pytest.mark.parametrize(
    ("over", "nanos", "flags"),
    [
        ({}, 190, Flag(0)),
        ({"charged_nanos": 191}, 190, Flag.PRICE_DIFFERS),
        ({"charged_nanos": 189}, 189, Flag.PRICE_DIFFERS),
        ({"ceiling_nanos": 150, "charged_nanos": 150}, 150, Flag(0)),
        ({"ceiling_nanos": 150, "charged_nanos": 190}, 150, Flag.OVER_CEILING),
        ({"price": None}, 190, Flag.PRICE_UNKNOWN),
        ({"price": None, "charged_nanos": 2_000}, 1_000, Flag.PRICE_UNKNOWN | Flag.OVER_CEILING),
        ({"output_tokens": -1}, 40, Flag.PRICE_DIFFERS | Flag.OUT_OF_RANGE),
        ({"charged_nanos": -5}, 0, Flag.PRICE_DIFFERS | Flag.OUT_OF_RANGE),
        ({"output_tokens": 10**18}, 190, Flag.PRICE_DIFFERS | Flag.OUT_OF_RANGE),
    ],
)
def test_the_lowest_of_what_can_be_proved_is_due(over: Any, nanos: int, flags: Flag) -> None:
    charge = charged(**over)

    assert (charge.due_nanos, charge.flags) == (nanos, flags)


@given(INT64, INT64, INT64, INT64, INT64, st.booleans())
def test_no_report_makes_a_charge_beyond_its_ceiling(
    fresh: int, cached: int, output: int, ceiling: int, reported: int, known: bool
) -> None:
    charge = charged(
        PRICE if known else None,
        input_tokens=fresh,
        cached_input_tokens=cached,
        output_tokens=output,
        ceiling_nanos=ceiling,
        charged_nanos=reported,
    )

    assert 0 <= charge.due_nanos <= max(0, min(ceiling, reported, MOST_NANOS))
    assert 0 <= charge.tokens.output <= MOST_TOKENS
    if known:
        assert charge.due_nanos <= PRICE.of(charge.tokens)


@pytest.mark.parametrize(
    "stamp",
    [
        Timestamp(),
        Timestamp(seconds=-(2**63)),
        Timestamp(seconds=2**63 - 1),
        Timestamp(seconds=int((NOW + timedelta(days=2)).timestamp())),
        Timestamp(seconds=int((NOW - timedelta(days=400)).timestamp())),
        Timestamp(seconds=int(NOW.timestamp()), nanos=-1),
    ],
    ids=["none", "before time", "after time", "tomorrow", "last year", "negative nanos"],
)
def test_a_moment_that_cannot_be_is_now(stamp: Timestamp) -> None:
    charge = charged(finished_at=stamp)

    assert (charge.finished_at, charge.flags) == (NOW, Flag.OUT_OF_RANGE)
    assert charge.due_nanos == 190
