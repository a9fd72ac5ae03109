"""Streams for a fleet's benches: gRPC on the wire, written with no gRPC library.

Thousands of clients of a library would cost more than the scheduler that is measured. A stream here
is one TCP connection that speaks just the HTTP/2 (RFC 9113) and gRPC that it needs: literal
headers, DATA frames, answers to SETTINGS and PING. What the scheduler sees is what a library sends.
"""

import asyncio
import struct
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import cast

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
_ACK, _END_STREAM, _END_HEADERS = 0x1, 0x1, 0x4
_STREAM = 1
"""The one stream of a connection."""
_LARGEST = 2**31 - 1
_ALL_WINDOW = struct.pack(">HI", 0x4, _LARGEST)
"""We read at once whatever comes, so the other side need never wait for us."""


class Wire(asyncio.Protocol):
    """A stream. `heard` is called with each message, `ended` once when it is over."""

    def __init__(
        self,
        method: str,
        metadata: tuple[str, str | bytes],
        heard: Callable[["Wire", bytes], None],
        ended: Callable[["Wire"], None],
    ) -> None:
        self._method = method
        self._metadata = metadata
        self._heard = heard
        self._ended = ended
        self._bytes = b""
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        name, value = self._metadata
        text = value if isinstance(value, str) else b64encode(value).decode().rstrip("=")
        headers = (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", self._method),
            (":authority", "scheduler"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            (name, text),
        )
        self._transport.write(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, _ALL_WINDOW)
            + _frame(_WINDOW, 0, 0, struct.pack(">I", _LARGEST - 65_535))
            + _frame(_HEADERS, _END_HEADERS, _STREAM, _literally(headers))
        )

    def say(self, body: bytes) -> None:
        """Sends a serialized message."""
        grpc = b"\0" + struct.pack(">I", len(body)) + body
        if self._transport is not None:
            self._transport.write(_frame(_DATA, 0, _STREAM, grpc))

    def break_off(self) -> None:
        """Ends the connection without a word, as the kernel does for a process that is killed."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        at = 0
        while len(self._bytes) - at >= 9:
            length = int.from_bytes(self._bytes[at : at + 3], "big")
            if len(self._bytes) - at < 9 + length:
                break
            kind, flags = self._bytes[at + 3], self._bytes[at + 4]
            self._take(kind, flags, self._bytes[at + 9 : at + 9 + length])
            at += 9 + length
        self._bytes = self._bytes[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._ended(self)

    def _take(self, kind: int, flags: int, body: bytes) -> None:
        if kind == _DATA:
            self._data += body
            self._messages()
        elif kind in (_SETTINGS, _PING) and not flags & _ACK and self._transport is not None:
            self._transport.write(_frame(kind, _ACK, 0, body if kind == _PING else b""))
        elif kind in (_RESET, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
            self.break_off()

    def _messages(self) -> None:
        while len(self._data) >= 5:
            end = 5 + int.from_bytes(self._data[1:5], "big")
            if len(self._data) < end:
                return
            message, self._data = self._data[5:end], self._data[end:]
            self._heard(self, message)


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">IBBI", len(body), kind, flags, stream)[1:] + body


def _literally(headers: Sequence[tuple[str, str]]) -> bytes:
    """HPACK (RFC 7541, 6.2.2): each a literal that nobody has to remember."""
    parts = []
    for name, value in headers:
        parts += [b"\0", _length(name), name.encode(), _length(value), value.encode()]
    return b"".join(parts)


def _length(text: str) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541, 5.1)."""
    left = len(text) - 127
    if left < 0:
        return bytes([len(text)])
    parts = [127]
    while left >= 128:
        parts.append(left % 128 + 128)
        left //= 128
    return bytes([*parts, left])
