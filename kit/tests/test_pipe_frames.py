"""Frames are what protobuf itself would write."""

import pytest
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from vlinders.api.v1.pipe_pb2 import (
    PipeCancel,
    PipeDrain,
    PipeEnd,
    PipeFrame,
    PipeFrames,
    PipeHead,
    PipeOpen,
)
from vlinders_kit.pipe import frames

EXCHANGES = st.integers(1, 2**64 - 1)


def written(frame: PipeFrame) -> bytes:
    return PipeFrames(frames=[frame]).SerializeToString()


@given(EXCHANGES, st.binary(max_size=64), st.integers(0, 3))
def test_a_piece_of_data_of_any_length(exchange: int, piece: bytes, power: int) -> None:
    piece *= 16**power

    assert frames.data(exchange, piece) == written(PipeFrame(exchange=exchange, data=piece))


@given(EXCHANGES, st.text(max_size=40), st.binary(max_size=300))
def test_a_request(exchange: int, id: str, body: bytes) -> None:
    request = PipeOpen(request_id=id, operation="Tell", body=body, window=98_304, deadline_ms=600)

    assert frames.opened(exchange, request) == written(PipeFrame(exchange=exchange, open=request))


@given(EXCHANGES, st.integers(0, 2**32 - 1))
def test_room_in_a_window(exchange: int, size: int) -> None:
    assert frames.window(exchange, size) == written(PipeFrame(exchange=exchange, window=size))


@pytest.mark.parametrize("exchange", [1, 127, 128, 16_383, 16_384, 2**40])
def test_beginnings_and_ends(exchange: int) -> None:
    status = Status(code=8, message="too many")
    head = PipeHead(content_type="text/event-stream")

    assert frames.head(exchange, head.content_type) == written(
        PipeFrame(exchange=exchange, head=head)
    )
    assert frames.end(exchange) == written(PipeFrame(exchange=exchange, end=PipeEnd()))
    assert frames.end(exchange, status) == written(
        PipeFrame(exchange=exchange, end=PipeEnd(status=status))
    )
    assert frames.cancel(exchange) == written(PipeFrame(exchange=exchange, cancel=PipeCancel()))
    assert frames.drain() == written(PipeFrame(drain=PipeDrain()))
