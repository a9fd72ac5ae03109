"""Events of streams that are alike: read by their text alone, and no other than if read whole."""

import json
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from vlinders_inference import streams
from vlinders_inference.catalogue import Model
from vlinders_inference.requests import read_chat
from vlinders_inference.streams import EventStream

MODEL = Model("m", "us", "m", 1000, 100, False, False, datetime(2026, 1, 1, tzinfo=UTC))
BODY = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}'
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'


def stream(*, learns: bool = True) -> EventStream:
    events = EventStream(read_chat(BODY, lambda _: MODEL), "chatcmpl_1", 1)
    if not learns:
        events._learnt = streams._MOST_FRAMES
    return events


def event(content: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    return b'data: {%s"choices":[{"index":0,"delta":{"content":%s}%s}]}\n\n' % (
        before,
        content,
        after,
    )


def told(events: EventStream, pieces: list[bytes]) -> tuple[Any, ...]:
    out = b"".join(map(events.feed, pieces))
    return out, events.produced, events.finished, events.done, events.broken


SAME = event(b'"a"')
AFTERWARDS = {
    "text": [event(b'" two"'), event(b'"three"')],
    "text beyond ASCII": [event(' "三 é 😀"'.encode()), event('"三"'.encode())],
    "escapes": [event(rb'"\n\t\"\\\/"'), event(rb'"\u00e9\ud83d\ude00"')],
    "nothing": [event(b'""'), event(b"null")],
    "a quote inside": [event(b'"a","role":"x"')],
    "a quote that closes the delta": [event(b'"a"},"finish_reason":"stop","x":{"y":"z"')],
    "an escape that is none": [event(rb'"\x"')],
    "an escaped end": [event(rb'"a\"')],
    "a line inside": [event(b'"a\nb"')],
    "a control": [event(b'"a\x00b"')],
    "what is no UTF-8": [event(b'"\xff"')],
    "a surrogate in UTF-8": [event(b'"\xed\xa0\x80"')],
    "another index": [event(b'"b"').replace(b'"index":0', b'"index":1')],
    "another id": [event(b'"b"', b'"id":"2",'), event(b'"c"', b'"id":"2",')],
    "the end": [event(b'"b"', after=b',"finish_reason":"stop"'), SAME, b"data: [DONE]\n\n", SAME],
    "an error": [b'data: {"error":{}}\n\n', SAME],
    "usage": [event(b'"b"').replace(b"]}", b'],"usage":{"completion_tokens":2}}'), SAME],
    "lines with returns": [event(b'"b"').replace(b"\n", b"\r\n"), event(b'"a\rb"')],
}


@pytest.mark.parametrize("pieces", AFTERWARDS.values(), ids=AFTERWARDS.keys())
@pytest.mark.parametrize("together", [False, True])
def test_what_comes_after_events_that_were_alike_is_told_as_ever(
    pieces: list[bytes], together: bool
) -> None:
    all_pieces = [ROLE, SAME, SAME, *pieces]
    if together:
        all_pieces = [b"".join(all_pieces)]
    learning, reading = stream(), stream(learns=False)

    assert told(learning, all_pieces) == told(reading, all_pieces)
    assert learning.tokens() == reading.tokens()


def test_any_bytes_in_the_place_of_a_text_are_told_as_ever() -> None:
    chance = random.Random(1)
    signs = [b'"', b"\\", b"u", b"n", b"}", b"]", b",", b":", b" ", b"\n", b"\x1f", b"\x7f"]
    signs += [b"a", "é".encode(), b"\xc3", b"\xff", b"{", b"0"]
    for _ in range(3000):
        text = b"".join(chance.choices(signs, k=chance.randrange(1, 8)))
        pieces = [ROLE, SAME, event(b'"%s"' % text), SAME]
        assert told(stream(), pieces) == told(stream(learns=False), pieces), text


def test_events_that_are_alike_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    events = stream()
    events.feed(ROLE + SAME)
    monkeypatch.setattr(streams, "read_body", None)

    told = events.feed(b"".join(event(json.dumps(f"w{number}").encode()) for number in range(50)))

    assert told.count(b"data: ") == 50
    assert events.produced == 51


def test_events_that_are_alike_are_counted_against_the_bound() -> None:
    events = stream()
    events.feed(ROLE)

    events.feed(SAME * 100 * streams.EVENTS_PER_TOKEN * 2)

    assert events.broken == "the answer does not end"


def test_an_engine_whose_events_are_never_alike_is_not_learnt_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events, learn, tries = stream(), EventStream._learn, []

    def counted(self: EventStream, event: bytes, text: bytes) -> None:
        tries.append(text)
        learn(self, event, text)

    monkeypatch.setattr(EventStream, "_learn", counted)
    events.feed(ROLE)

    for number in range(100):
        events.feed(event(b'"x"', b'"created":%d,' % number))

    assert (events.produced, len(tries)) == (100, streams._MOST_FRAMES)
