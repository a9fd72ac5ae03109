"""API keys as text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlinders_kit import api_keys
from vlinders_kit.api_keys import FORMS, MASSROUTER, VLINDERS, Form

KEY = "vlinders_sk_live_000000000000000000000000000000014KvK3z"
MASSROUTERS = "mr_sk_000000000000000000000000000000014ZgMAx"
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

SAID = {VLINDERS: r"vlinders_sk_live_[A-Za-z0-9]{12,}", MASSROUTER: r"mr_sk_[A-Za-z0-9]{16,}"}
"""What clients were told to expect of a key."""


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.prefix)
def test_a_new_key_is_well_formed_and_nobodys(form: Form) -> None:
    keys = [api_keys.new(form) for _ in range(1_000)]

    assert all(api_keys.is_well_formed(key) for key in keys)
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(SAID[form], key) for key in keys)


@given(
    key=st.sampled_from([KEY, MASSROUTERS]),
    place=st.integers(0, len(KEY) - 1),
    digit=st.sampled_from(DIGITS),
)
def test_a_wrong_character_anywhere_is_noticed(key: str, place: int, digit: str) -> None:
    place %= len(key)
    mistyped = key[:place] + digit + key[place + 1 :]

    assert api_keys.is_well_formed(mistyped) == (mistyped == key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        VLINDERS.prefix,
        KEY[:-1],
        KEY + "0",
        KEY + "\n",
        " " + KEY,
        KEY.upper(),
        KEY.replace("live", "test"),
        KEY[:-1] + "é",
        VLINDERS.prefix + "٣" * 38,
        "sk-" + KEY,
        MASSROUTER.prefix + KEY.removeprefix(VLINDERS.prefix),  # the checksum is of all of it
    ],
)
def test_what_has_another_form_is_no_key(text: str) -> None:
    assert not api_keys.is_well_formed(text)
    with pytest.raises(ValueError, match="no API key"):
        api_keys.prefix_of(text + " ")


def test_no_form_is_taken_for_another() -> None:
    for form in FORMS:
        assert not any(form.prefix.startswith(each.prefix) for each in FORMS if each is not form)


def test_the_forms_never_change_since_clients_keep_their_keys() -> None:
    assert api_keys.is_well_formed(KEY)
    assert api_keys.is_well_formed(MASSROUTERS)
    assert api_keys.prefix_of(KEY) == "vlinders_sk_live_0000"
    assert api_keys.prefix_of(MASSROUTERS) == "mr_sk_000000"
    assert api_keys.digest(KEY).hex() == (
        "9abac98b93e9cf60ca948bf541116b585a501b768e34827dcabbb2b5ea5d27ad"
    )
