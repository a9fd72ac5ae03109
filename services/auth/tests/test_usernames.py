"""Usernames that are made from e-mails."""

import re
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlinders_auth.usernames import derive


@pytest.mark.parametrize(
    ("email", "first"),
    [
        ("ada@example.com", "ada"),
        ("Ada.Lovelace@example.com", "ada.lovelace"),
        ("ada+shop@example.com", "adashop"),
        (f"{'a' * 64}@example.com", "a" * 50),
    ],
)
def test_the_local_part_is_the_first_choice(email: str, first: str) -> None:
    assert next(derive(email)) == first


@pytest.mark.parametrize("email", ["a@example.com", "._.@example.com", "!a!@example.com"])
def test_one_that_is_too_short_has_a_suffix_from_the_start(email: str) -> None:
    assert "-" in next(derive(email))


@given(st.emails())
def test_every_choice_is_a_username(email: str) -> None:
    for name in islice(derive(email), 20):
        assert re.fullmatch(r"[a-z0-9_.-]{3,50}", name)
