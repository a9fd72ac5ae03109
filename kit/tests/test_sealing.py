"""What is sealed opens for its purpose, with its key, and not if a bit of it is different."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlinders_kit.sealing import NotSealedHere, Sealer

OLD, NEW = b"o" * 32, b"n" * 32
SEALER = Sealer({"old": OLD, "new": NEW}, "new")


@given(st.binary(max_size=200), st.text(max_size=20))
def test_what_is_sealed_opens(secret: bytes, purpose: str) -> None:
    sealed = SEALER.seal(secret, purpose)

    assert SEALER.open(sealed, purpose) == secret
    assert len(secret) < 8 or secret not in sealed


def test_a_secret_does_not_open_in_anothers_place() -> None:
    sealed = SEALER.seal(b"secret", "provider:one")

    with pytest.raises(NotSealedHere):
        SEALER.open(sealed, "provider:other")


def test_no_bit_of_it_can_be_changed() -> None:
    sealed = SEALER.seal(b"secret", "provider:one")

    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NotSealedHere):
            SEALER.open(bytes(changed), "provider:one")


def test_no_part_of_it_opens() -> None:
    sealed = SEALER.seal(b"secret", "provider:one")

    for length in range(len(sealed)):
        with pytest.raises(NotSealedHere):
            SEALER.open(sealed[:length], "provider:one")


def test_after_a_change_of_keys_what_was_sealed_opens() -> None:
    sealed = Sealer({"old": OLD}, "old").seal(b"secret", "provider:one")

    assert SEALER.open(sealed, "provider:one") == b"secret"
    with pytest.raises(NotSealedHere):
        Sealer({"new": NEW}, "new").open(sealed, "provider:one")


def test_the_same_secret_is_never_sealed_the_same() -> None:
    assert SEALER.seal(b"secret", "") != SEALER.seal(b"secret", "")


@pytest.mark.parametrize(
    ("keys", "current"),
    [
        ({}, "new"),
        ({"old": OLD}, "new"),
        ({"new": b"n" * 16}, "new"),
        ({"n" * 256: NEW}, "n" * 256),
    ],
)
def test_keys_that_cannot_seal_are_refused(keys: dict[str, bytes], current: str) -> None:
    with pytest.raises(ValueError, match="sealing key"):
        Sealer(keys, current)


def test_keys_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"current": "new", "keys": {"new": NEW.hex(), "old": OLD.hex()}}))

    assert Sealer.load(file).open(SEALER.seal(b"secret", ""), "") == b"secret"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"keys": {"a": "zz"}}', '{"current": "a", "keys": {}}']
)
def test_a_file_that_holds_no_keys_is_refused_without_telling_them(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)

    with pytest.raises(ValueError, match=r"keys\.json is no readable file of sealing keys$"):
        Sealer.load(file)


@given(st.binary(max_size=200), st.text(max_size=20))
def test_what_is_signed_is_known(message: bytes, purpose: str) -> None:
    assert SEALER.is_signed(message, SEALER.sign(message, purpose), purpose)


def test_a_signature_is_of_one_message_for_one_purpose_by_one_key() -> None:
    signature = SEALER.sign(b"message", "link:one")

    assert not SEALER.is_signed(b"messages", signature, "link:one")
    assert not SEALER.is_signed(b"message", signature, "link:other")
    assert not Sealer({"new": b"x" * 32}, "new").is_signed(b"message", signature, "link:one")
    for bit in range(8 * len(signature)):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        assert not SEALER.is_signed(b"message", bytes(changed), "link:one")
    for length in range(len(signature)):
        assert not SEALER.is_signed(b"message", signature[:length], "link:one")


def test_after_a_change_of_keys_what_was_signed_is_known() -> None:
    signature = Sealer({"old": OLD}, "old").sign(b"message", "link:one")

    assert SEALER.is_signed(b"message", signature, "link:one")
    assert SEALER.sign(b"message", "link:one") != signature
