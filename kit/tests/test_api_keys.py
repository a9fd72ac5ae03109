"""API keys as texts."""

import random
import re

import pytest

from vlinders_kit import api_keys


def test_a_new_key_is_well_formed_and_says_so_by_its_prefix() -> None:
    key = api_keys.generate()

    assert re.fullmatch(r"vlinders_sk_live_[A-Za-z0-9]{38}", key)
    assert api_keys.is_well_formed(key)
    assert api_keys.hint(key) == key[:21]


def test_no_two_keys_are_the_same() -> None:
    assert len({api_keys.generate() for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: key[:-1],
        lambda key: key + "0",
        lambda key: key.lower() if key.lower() != key else key.upper(),
        lambda key: "x" + key[1:],
        lambda key: key[:20] + "-" + key[21:],
        lambda key: key[:20] + "é" + key[21:],
        lambda key: "",
    ],
)
def test_a_spoilt_key_is_not_well_formed(spoil) -> None:  # type: ignore[no-untyped-def]
    assert not api_keys.is_well_formed(spoil(api_keys.generate()))


def test_every_slip_of_one_digit_is_found() -> None:
    key = api_keys.generate(random.Random(7).choice)

    for place in range(len(api_keys.PREFIX), len(key)):
        other = "a" if key[place] != "a" else "b"
        assert not api_keys.is_well_formed(key[:place] + other + key[place + 1 :])
