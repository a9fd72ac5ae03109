"""API keys as text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlinders_kit import api_keys

KEY = "vlinders_sk_live_000000000000000000000000000000014KvK3z"
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def test_a_new_key_is_well_formed_and_nobodys() -> None:
    keys = [api_keys.new() for _ in range(1_000)]

    assert all(api_keys.is_well_formed(key) for key in keys)
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"vlinders_sk_live_[A-Za-z0-9]{12,}", key) for key in keys)


@given(place=st.integers(len(api_keys.PREFIX), len(KEY) - 1), digit=st.sampled_from(DIGITS))
def test_a_wrong_character_anywhere_is_noticed(place: int, digit: str) -> None:
    mistyped = KEY[:place] + digit + KEY[place + 1 :]

    assert api_keys.is_well_formed(mistyped) == (mistyped == KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        api_keys.PREFIX,
        KEY[:-1],
        KEY + "0",
        KEY + "\n",
        " " + KEY,
        KEY.upper(),
        KEY.replace("live", "test"),
        KEY[:-1] + "é",
        api_keys.PREFIX + "٣" * 38,
        "sk-" + KEY,
    ],
)
def test_what_has_another_form_is_no_key(text: str) -> None:
    assert not api_keys.is_well_formed(text)


def test_the_form_never_changes_since_clients_keep_their_keys() -> None:
    assert api_keys.is_well_formed(KEY)
    assert api_keys.prefix_of(KEY) == "vlinders_sk_live_0000"
    assert api_keys.digest(KEY).hex() == (
        "9abac98b93e9cf60ca948bf541116b585a501b768e34827dcabbb2b5ea5d27ad"
    )
