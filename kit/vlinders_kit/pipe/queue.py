"""Frames on their way out: gathered while the loop turns, sent as few messages."""

import asyncio
from collections.abc import Callable, Iterator

SPACING, WIDER_SPACING = 0.001, 0.002
"""Seconds between two messages, at least; the wider after one of MANY frames. Each message wakes
the other side, whatever it carries: a frame that comes alone leaves at once, and under load those
of two milliseconds share a message."""

MANY = 8

LARGEST_MESSAGE = 1 << 20
"""Bytes of frames after which a message is sent and another begun."""


class FrameQueue:
    """What one side has still to send. Its bound is the windows of the exchanges that feed it."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._free = 0.0
        self._due: asyncio.Handle | None = None
        self._closed = False

    def put(self, frame: bytes) -> None:
        """Has it sent, with what else is put meanwhile; after `close` it is dropped."""
        if self._closed:
            return
        self._frames.append(frame)
        if self._due is None:
            early = self._free - self._loop.time()
            if early <= 0:
                self._due = self._loop.call_soon(self.flush)
            else:
                self._due = self._loop.call_later(early, self.flush)

    def flush(self) -> None:
        """Sends everything now."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        frames, self._frames = self._frames, []
        for message in _messages(frames):
            self._send(message)
        spacing = SPACING if len(frames) < MANY else WIDER_SPACING
        self._free = self._loop.time() + spacing

    def close(self) -> None:
        """There is nobody to send to any more."""
        self._closed = True
        self._frames.clear()
        if self._due is not None:
            self._due.cancel()
            self._due = None


def _messages(frames: list[bytes]) -> Iterator[bytes]:
    """The frames in order, joined to messages."""
    first, size = 0, 0
    for position, frame in enumerate(frames):
        if size and size + len(frame) > LARGEST_MESSAGE:
            yield b"".join(frames[first:position])
            first, size = position, 0
        size += len(frame)
    if size:
        yield b"".join(frames[first:])
