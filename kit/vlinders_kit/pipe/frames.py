"""Frames as they go out: each is encoded once, as the element of PipeFrames that it will be."""

from functools import lru_cache

from google.rpc.status_pb2 import Status

from vlinders.api.v1.pipe_pb2 import PipeDrain, PipeEnd, PipeFrame, PipeFrames, PipeHead, PipeOpen
from vlinders_kit.encoding import delimited, tag, varint

_FRAME = tag(PipeFrames, "frames")
_EXCHANGE, _WINDOW = tag(PipeFrame, "exchange"), tag(PipeFrame, "window")
_OPEN, _HEAD, _DATA = tag(PipeFrame, "open"), tag(PipeFrame, "head"), tag(PipeFrame, "data")
_ENDED = delimited(tag(PipeFrame, "end"), b"")
_CANCELLED = delimited(tag(PipeFrame, "cancel"), b"")


def opened(exchange: int, request: PipeOpen) -> bytes:
    return _frame(exchange, delimited(_OPEN, request.SerializeToString()))


def head(exchange: int, content_type: str) -> bytes:
    return _frame(exchange, _head(content_type))


def data(exchange: int, piece: bytes) -> bytes:
    return _frame(exchange, delimited(_DATA, piece))


def end(exchange: int, status: Status | None = None) -> bytes:
    if status is None:
        return _frame(exchange, _ENDED)
    return _whole(PipeFrame(exchange=exchange, end=PipeEnd(status=status)))


def cancel(exchange: int) -> bytes:
    return _frame(exchange, _CANCELLED)


def window(exchange: int, size: int) -> bytes:
    return _frame(exchange, _WINDOW + varint(size))


def drain() -> bytes:
    return _whole(PipeFrame(drain=PipeDrain()))


def _frame(exchange: int, kind: bytes) -> bytes:
    number = varint(exchange)
    return b"".join((_FRAME, varint(1 + len(number) + len(kind)), _EXCHANGE, number, kind))


@lru_cache(maxsize=16)
def _head(content_type: str) -> bytes:
    return delimited(_HEAD, PipeHead(content_type=content_type).SerializeToString())


def _whole(frame: PipeFrame) -> bytes:
    return PipeFrames(frames=[frame]).SerializeToString()
