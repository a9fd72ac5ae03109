"""Server-sent events, as engines write them: bytes in, the data of each event out."""

DONE = b"[DONE]"
"""The data of the last event of a whole answer."""

LONGEST = 4 * 1024 * 1024
"""Bytes of one event. More is no answer of an engine."""


class EventTooLong(Exception):
    """The engine sent more than an event can have."""


class Events:
    """Cuts a stream of bytes into events, wherever the reads happen to cut it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that `data` completes. Comments and other fields are left out."""
        text = self._rest + data
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        *whole, self._rest = text.split(b"\n\n")
        if len(self._rest) > LONGEST:
            raise EventTooLong
        return [found for event in whole if (found := _data(event)) is not None]


def event(data: bytes) -> bytes:
    """`data` as an event."""
    return b"data: %b\n\n" % data


def _data(event: bytes) -> bytes | None:
    if b"\n" not in event:
        return event[5:].strip() if event.startswith(b"data:") else None
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
