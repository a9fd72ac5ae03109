"""Secrets at rest, sealed with AES-256-GCM; and signatures. Each is bound to what it is for."""

import hmac
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE = 12
"""Bytes; random, so one key may seal 2^32 secrets (NIST SP 800-38D 8.3)."""


class NotSealedHere(ValueError):
    """The text was not sealed by a key that is known here, or not for this purpose."""


class Sealer:
    """Seals with one key and opens with any of several, so that keys can be changed.

    `keys` maps key ids (at most 255 bytes) to 32 bytes each; `current` is the one that seals.
    """

    def __init__(self, keys: Mapping[str, bytes], current: str) -> None:
        if current not in keys:
            raise ValueError(f"there is no sealing key {current!r}")
        for key_id, key in keys.items():
            if len(key) != 32 or len(key_id.encode()) > 255:
                raise ValueError(
                    f"the sealing key {key_id[:20]!r} has not 32 bytes, or too long an id"
                )
        self._secrets = dict(keys)
        self._keys = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._current = current

    @classmethod
    def load(cls, file: Path) -> Self:
        """The sealer of a key file: `{"current": id, "keys": {id: 32 bytes in hex, …}}`.

        Raises ValueError, which says nothing of the keys, for a file that is not there or not so.
        """
        try:
            told = json.loads(file.read_bytes())
            keys = {key_id: bytes.fromhex(key) for key_id, key in told["keys"].items()}
            return cls(keys, told["current"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"{file} is no readable file of sealing keys") from None

    def sign(self, message: bytes, purpose: str) -> bytes:
        """32 bytes that nobody makes of `message`, for `purpose`, without the key."""
        return self._signature(self._current, message, purpose)

    def is_signed(self, message: bytes, signature: bytes, purpose: str) -> bool:
        """Whether `sign` made `signature` of the same, with a key that is known here."""
        known = [self._signature(key_id, message, purpose) for key_id in self._secrets]
        return any(hmac.compare_digest(signature, each) for each in known)

    def seal(self, secret: bytes, purpose: str) -> bytes:
        """`secret`, so that only `open` with the same `purpose` (as `provider:mock`) reads it."""
        key_id = self._current.encode()
        nonce = os.urandom(_NONCE)
        body = self._keys[self._current].encrypt(nonce, secret, purpose.encode())
        return bytes([len(key_id)]) + key_id + nonce + body

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """What was sealed; raises NotSealedHere if anything about it is different."""
        length = sealed[0] + 1 if sealed else 1
        key = self._keys.get(sealed[1:length].decode(errors="replace"))
        nonce, body = sealed[length : length + _NONCE], sealed[length + _NONCE :]
        if key is None or len(nonce) != _NONCE:
            raise NotSealedHere
        try:
            return key.decrypt(nonce, body, purpose.encode())
        except InvalidTag:
            raise NotSealedHere from None

    def _signature(self, key_id: str, message: bytes, purpose: str) -> bytes:
        """HMAC-SHA256 with a key of the purpose's own (HKDF, RFC 5869): what seals never signs."""
        derived = HKDF(SHA256(), 32, salt=None, info=b"vlinders signs " + purpose.encode())
        return hmac.digest(derived.derive(self._secrets[key_id]), message, "sha256")
