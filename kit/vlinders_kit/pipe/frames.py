"""Frames as they go out: each is encoded once, as the element of PipeFrames that it will be.

protobuf copies a message into the one that carries it, by writing and reading it again: ten
microseconds a frame, for what takes one to join.
"""

from functools import lru_cache

from google.rpc.status_pb2 import Status

from vlinders.api.v1.pipe_pb2 import PipeDrain, PipeEnd, PipeFrame, PipeFrames, PipeHead, PipeOpen

_LENGTH_DELIMITED = 2
_SMALL = [bytes((number,)) for number in range(128)]
"""Varints of one byte."""


def _tag(field: str, wire_type: int = _LENGTH_DELIMITED) -> bytes:
    return _SMALL[PipeFrame.DESCRIPTOR.fields_by_name[field].number << 3 | wire_type]


_FRAME = _SMALL[PipeFrames.DESCRIPTOR.fields_by_name["frames"].number << 3 | _LENGTH_DELIMITED]
_EXCHANGE, _WINDOW = _tag("exchange", 0), _tag("window", 0)
_OPEN, _HEAD, _DATA = _tag("open"), _tag("head"), _tag("data")
_ENDED = _tag("end") + _SMALL[0]
_CANCELLED = _tag("cancel") + _SMALL[0]


def opened(exchange: int, request: PipeOpen) -> bytes:
    return _frame(exchange, _field(_OPEN, request.SerializeToString()))


def head(exchange: int, content_type: str) -> bytes:
    return _frame(exchange, _head(content_type))


def data(exchange: int, piece: bytes) -> bytes:
    return _frame(exchange, _field(_DATA, piece))


def end(exchange: int, status: Status | None = None) -> bytes:
    if status is None:
        return _frame(exchange, _ENDED)
    return _whole(PipeFrame(exchange=exchange, end=PipeEnd(status=status)))


def cancel(exchange: int) -> bytes:
    return _frame(exchange, _CANCELLED)


def window(exchange: int, size: int) -> bytes:
    return _frame(exchange, _WINDOW + _varint(size))


def drain() -> bytes:
    return _whole(PipeFrame(drain=PipeDrain()))


def _frame(exchange: int, kind: bytes) -> bytes:
    number = _varint(exchange)
    return b"".join((_FRAME, _varint(1 + len(number) + len(kind)), _EXCHANGE, number, kind))


def _field(tag: bytes, value: bytes) -> bytes:
    return b"".join((tag, _varint(len(value)), value))


@lru_cache(maxsize=16)
def _head(content_type: str) -> bytes:
    return _field(_HEAD, PipeHead(content_type=content_type).SerializeToString())


def _whole(frame: PipeFrame) -> bytes:
    return PipeFrames(frames=[frame]).SerializeToString()


def _varint(number: int) -> bytes:
    if number < 128:
        return _SMALL[number]
    if number < 16_384:
        return bytes((number & 127 | 128, number >> 7))
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)
