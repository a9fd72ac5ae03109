"""A signed caller is believed by one audience, for a while, and not if a bit of it is different."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlinders.api.v1.caller_pb2 import SignedCaller
from vlinders_kit.callers import CallerKey, CallerNotTrusted
from vlinders_kit.clock import ManualClock
from vlinders_kit.testing import a_user

SHOWN = a_user()


def test_a_caller_is_read_as_it_was_signed() -> None:
    key = CallerKey(b"k" * 32)

    assert key.verify(key.sign(SHOWN, "vlinders.auth"), "vlinders.auth") == SHOWN


def test_a_signature_holds_for_thirty_seconds() -> None:
    clock = ManualClock()
    key = CallerKey(b"k" * 32, clock)
    token = key.sign(SHOWN, "vlinders.auth")

    clock.advance(30.0)
    key.verify(token, "vlinders.auth")
    clock.advance(0.001)
    with pytest.raises(CallerNotTrusted):
        key.verify(token, "vlinders.auth")


@given(st.data())
def test_no_bit_of_it_can_be_changed(data: st.DataObject) -> None:
    key = CallerKey(b"k" * 32)
    token = bytearray(key.sign(SHOWN, "vlinders.auth"))
    token[data.draw(st.integers(0, len(token) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(CallerNotTrusted):
        key.verify(bytes(token), "vlinders.auth")


def test_no_two_sets_of_fields_are_signed_as_the_same_bytes() -> None:
    key = CallerKey(b"k" * 32)
    caller = SHOWN.SerializeToString()
    signed = SignedCaller.FromString(key.sign(SHOWN, "a 1"))
    moved = SignedCaller(caller=caller + b" a", audience="1", expires_at_ms=signed.expires_at_ms)
    moved.signature = signed.signature

    with pytest.raises(CallerNotTrusted):
        key.verify(moved.SerializeToString(), "1")


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        CallerKey(b"k" * 31)
