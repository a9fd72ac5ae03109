"""Events come out whole, wherever the reads cut the stream."""

import itertools

import pytest
from hypothesis import given, strategies

from vlinders_worker import sse
from vlinders_worker.sse import Events, EventTooLong

STREAM = (
    b': a comment\n\ndata: {"n":1}\n\nevent: odd\ndata: {"n":2}\n\ndata:{"n":3}\r\n\r\n'
    b"id: 4\n\ndata: [DONE]\n\n"
)
DATA = [b'{"n":1}', b'{"n":2}', b'{"n":3}', sse.DONE]


@given(strategies.sets(strategies.integers(1, len(STREAM) - 1)))
def test_any_cut_gives_the_same_events(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    events = Events()

    found = [
        data for begin, end in itertools.pairwise(edges) for data in events.feed(STREAM[begin:end])
    ]

    assert found == DATA


def test_an_event_without_end_is_refused() -> None:
    events = Events()

    with pytest.raises(EventTooLong):
        events.feed(b"data: " + b"x" * sse.LONGEST)


def test_what_is_written_reads_back() -> None:
    assert Events().feed(sse.event(b'{"n":1}')) == [b'{"n":1}']
