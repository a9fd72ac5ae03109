"""Frames on their way out: gathered while the loop turns, sent as few messages."""

import asyncio
from collections.abc import Callable

from vlinders.api.v1.pipe_pb2 import PipeFrame, PipeFrames

SPACING = 0.001
"""Seconds between two messages, at least. Each wakes the other side, whatever it carries: a frame
that comes alone leaves at once, and under load those of a millisecond share a message."""

LARGEST_MESSAGE = 1 << 20
"""Bytes of data and bodies after which a message is sent and another begun."""


class FrameQueue:
    """What one side has still to send. Its bound is the windows of the exchanges that feed it."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._frames: list[PipeFrame] = []
        self._free = 0.0
        self._due: asyncio.Handle | None = None
        self._closed = False

    def put(self, frame: PipeFrame) -> None:
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
        for batch in _split(frames):
            self._send(PipeFrames(frames=batch).SerializeToString())
        self._free = self._loop.time() + SPACING

    def close(self) -> None:
        """There is nobody to send to any more."""
        self._closed = True
        self._frames.clear()
        if self._due is not None:
            self._due.cancel()
            self._due = None


def _split(frames: list[PipeFrame]) -> list[list[PipeFrame]]:
    if len(frames) < 2:
        return [frames] if frames else []
    batches: list[list[PipeFrame]] = [[]]
    size = 0
    for frame in frames:
        weight = len(frame.data) + len(frame.open.body)
        if size and size + weight > LARGEST_MESSAGE:
            batches.append([])
            size = 0
        batches[-1].append(frame)
        size += weight
    return batches
