"""The wire of a pipe: one gRPC call on one HTTP/2 connection, messages both ways.

With grpcio a message costs 100 µs of CPU at each end and wakes three threads; this costs ten and
wakes none. It is the standard wire (RFC 9113, and gRPC over HTTP/2), without what one call that
lasts does not need: more streams, push, priorities, compression. Stock gRPC is understood at
either end, which the tests hold it to.
"""

import asyncio
import struct
from collections.abc import Iterable
from typing import Protocol, cast

import hpack
from google.protobuf.message import DecodeError

from vlinders_kit import logs

log = logs.get(__name__)

LARGEST_MESSAGE = 32 * 1024 * 1024
"""Bytes of a message; a larger one ends the connection."""

WINDOW = 16 * 1024 * 1024
"""Bytes that the other side may have under way: what is read is taken at once, so it never waits
for us. How much may wait for a slow reader is the windows' of the exchanges."""

CLOSE_SECONDS = 1.0
"""How long the other side has to agree that an encrypted connection is over."""

TICK_SECONDS = 5.0
"""After two of them without a word from the other side it is asked; after three it is gone."""

_LARGEST_FRAME = 16 * 1024  # what either side must take (RFC 9113 4.2), and larger ones gain little
_LARGEST_HEADERS = 64 * 1024

_DATA, _HEADERS, RST_STREAM, _SETTINGS = 0, 1, 3, 4
_PUSH_PROMISE, _PING, GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 5, 6, 7, 8, 9
END_STREAM = _ACK = 0x1
_END_HEADERS, _PADDED, _WITH_PRIORITY = 0x4, 0x8, 0x20
NO_ERROR, REFUSED_STREAM = 0, 7
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 1, 2, 3, 4
_OUR_SETTINGS = struct.pack(
    ">HIHIHI", _ENABLE_PUSH, 0, _MAX_CONCURRENT_STREAMS, 1, _INITIAL_WINDOW_SIZE, WINDOW
)
_DEFAULT_WINDOW = 65_535
_LARGEST_WINDOW = 2**31 - 1

_HEAD = struct.Struct(">BHBBI")
_PREFIX = struct.Struct(">BI")
NUMBER = struct.Struct(">I")
_SETTING = struct.Struct(">HI")


class WireBroken(Exception):
    """The other side does not speak the protocol as it must, or is gone. The text says how."""


class Talker(Protocol):
    """Who holds the conversation. Nothing comes after `lost`, which comes always."""

    def message(self, body: bytes) -> None:
        """A message, whole."""

    def lost(self, why: str) -> None:
        """The call is over."""


class Wire(asyncio.Protocol):
    """One connection, from either end."""

    talker: Talker

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._stream = 0
        self._received = bytearray()
        self._message = bytearray()
        self._unsent = bytearray()
        self._headers = bytearray()
        self._headers_of = self._headers_flags = 0
        self._decoder = hpack.Decoder(max_header_list_size=_LARGEST_HEADERS)
        self._encoder = hpack.Encoder()
        self._window = self._stream_window = self._first_window = _DEFAULT_WINDOW
        self._taken = 0
        self._quiet = 0
        self._ending = False
        self._why = "the connection is closed"
        self._tick: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, body: bytes) -> None:
        """Sends a message; it waits here as long as the other side has no room for it."""
        size = len(body) + 5
        if not self._unsent and size <= _LARGEST_FRAME and size <= self._room:
            self._spend(size)
            head = _HEAD.pack(size >> 16, size & 0xFFFF, _DATA, 0, self._stream)
            self._transport.write(b"".join((head, _PREFIX.pack(0, len(body)), body)))
        else:
            self._unsent += _PREFIX.pack(0, len(body))
            self._unsent += body
            self._pump()

    def close(self) -> None:
        """Ends the connection; what has been sent still arrives."""
        self._transport.close()

    async def closed(self) -> None:
        """Closes, and returns when the connection is over: soon, whatever the other side does."""
        self.close()
        await asyncio.wait([self._closed], timeout=CLOSE_SECONDS)
        self._transport.abort()
        await self._closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._tick = asyncio.get_running_loop().call_later(TICK_SECONDS, self._look)

    def connection_lost(self, error: Exception | None) -> None:
        if self._tick is not None:
            self._tick.cancel()
        if not self._closed.done():
            self._closed.set_result(None)
        self._over(f"{self._why} ({error})" if error is not None else self._why)

    def data_received(self, data: bytes) -> None:
        self._quiet = 0
        try:
            self._read(data)
        except (WireBroken, hpack.HPACKError, struct.error, IndexError) as broken:
            self._why = str(broken) or type(broken).__name__
            log.warning("pipe_wire_broken", error=self._why)
            self._transport.abort()

    def _read(self, data: bytes) -> None:
        if self._received:
            self._received += data
            data = bytes(self._received)
            self._received.clear()
        position, end = 0, len(data)
        while end - position >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, position)
            length = high << 16 | low
            if length > _LARGEST_FRAME:
                raise WireBroken("a frame is too large")
            begin = position + _HEAD.size
            if end - begin < length:
                break
            position = begin + length
            self._frame(kind, flags, stream & _LARGEST_WINDOW, data[begin:position])
        if position < end:
            self._received += data[position:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._headers_of and kind != _CONTINUATION:
            raise WireBroken("headers break off")
        if kind == _DATA:
            self._take(flags, stream, payload)
        elif kind == _WINDOW_UPDATE:
            self._grow(stream, NUMBER.unpack(payload)[0] & _LARGEST_WINDOW)
        elif kind == _PING:
            if not flags & _ACK:
                self._write(_PING, _ACK, 0, payload)
        elif kind == _SETTINGS:
            if not flags & _ACK:
                self._apply(payload)
        elif kind == _HEADERS:
            payload = _unpadded(flags, payload)
            self._headers_of, self._headers_flags = stream, flags
            self._gather(flags, payload[5:] if flags & _WITH_PRIORITY else payload)
        elif kind == _CONTINUATION:
            if stream != self._headers_of:
                raise WireBroken("headers go on in another stream")
            self._gather(flags, payload)
        elif kind == RST_STREAM and stream == self._stream:
            raise WireBroken(f"the call was reset, code {NUMBER.unpack(payload)[0]}")
        elif kind == _PUSH_PROMISE:
            raise WireBroken("a push was promised")
        # GOAWAY: no more streams, and there is only this one. PRIORITY, and what is not known: no
        # matter to us (RFC 9113 5.5).

    def _take(self, flags: int, stream: int, payload: bytes) -> None:
        self._taken += len(payload)
        if self._taken >= WINDOW // 2:
            grown = NUMBER.pack(self._taken)
            self._write(_WINDOW_UPDATE, 0, 0, grown)
            self._write(_WINDOW_UPDATE, 0, self._stream, grown)
            self._taken = 0
        if stream != self._stream:
            return
        payload = _unpadded(flags, payload)
        self._message += payload
        while len(self._message) >= _PREFIX.size:
            compressed, size = _PREFIX.unpack_from(self._message)
            if compressed or size > LARGEST_MESSAGE:
                raise WireBroken("a message is compressed, or too large")
            end = _PREFIX.size + size
            if len(self._message) < end:
                break
            body = bytes(self._message[_PREFIX.size : end])
            del self._message[:end]
            try:
                self.talker.message(body)
            except DecodeError:
                raise WireBroken("a message is not what the call says") from None
        if flags & END_STREAM:
            self._ended("the other side has ended the call")

    def _gather(self, flags: int, piece: bytes) -> None:
        self._headers += piece
        if len(self._headers) > _LARGEST_HEADERS:
            raise WireBroken("headers are too large")
        if not flags & _END_HEADERS:
            return
        stream, first = self._headers_of, self._headers_flags
        fields = _texts(self._decoder.decode(bytes(self._headers), raw=True))
        self._headers.clear()
        self._headers_of = 0
        self._told(stream, fields, ended=bool(first & END_STREAM))

    def _told(self, stream: int, fields: dict[str, str], *, ended: bool) -> None:
        """The headers of a stream have come."""
        raise NotImplementedError

    def _ended(self, why: str) -> None:
        """The other side says no more."""
        self._why = why
        self._transport.close()

    def _apply(self, payload: bytes) -> None:
        for name, value in _SETTING.iter_unpack(payload):
            if name == _INITIAL_WINDOW_SIZE:
                self._stream_window += value - self._first_window
                self._first_window = value
            elif name == _HEADER_TABLE_SIZE:
                self._encoder.header_table_size = min(value, 4096)
        self._write(_SETTINGS, _ACK, 0)
        self._pump()

    def _grow(self, stream: int, by: int) -> None:
        if stream == 0:
            self._window += by
        elif stream == self._stream:
            self._stream_window += by
        if max(self._window, self._stream_window) > _LARGEST_WINDOW:
            raise WireBroken("a window is too large")
        self._pump()

    @property
    def _room(self) -> int:
        return min(self._window, self._stream_window)

    def _spend(self, size: int) -> None:
        self._window -= size
        self._stream_window -= size

    def _pump(self) -> None:
        """Sends of what waits as much as there is room for."""
        sent, size = 0, min(len(self._unsent), max(self._room, 0))
        while sent < size:
            piece = bytes(self._unsent[sent : min(sent + _LARGEST_FRAME, size)])
            self._write(_DATA, 0, self._stream, piece)
            sent += len(piece)
        if sent:
            self._spend(sent)
            del self._unsent[:sent]

    def _write(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        size = len(payload)
        self._transport.write(_HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload)

    def _write_headers(self, fields: Iterable[tuple[str, str]], flags: int = 0) -> None:
        never = [hpack.NeverIndexedHeaderTuple(name, value) for name, value in fields]
        block = self._encoder.encode(never, huffman=False)
        self._write(_HEADERS, flags | _END_HEADERS, self._stream, block)

    def _greet(self) -> None:
        self._write(_SETTINGS, 0, 0, _OUR_SETTINGS)
        self._write(_WINDOW_UPDATE, 0, 0, NUMBER.pack(WINDOW - _DEFAULT_WINDOW))

    def _look(self) -> None:
        self._quiet += 1
        if self._quiet > 2:
            self._why = "nothing is heard of the other side"
            self._transport.abort()
            return
        if self._quiet == 2:
            self._write(_PING, 0, 0, b"vlinders")
        self._tick = asyncio.get_running_loop().call_later(TICK_SECONDS, self._look)

    def _over(self, why: str) -> None:
        raise NotImplementedError


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if payload[0] >= len(payload):
        raise WireBroken("there is more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def _texts(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}
