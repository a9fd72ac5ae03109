"""Frames on their way out: gathered while the loop turns, sent as few messages."""

import asyncio
from collections.abc import AsyncIterator

from vlinders.api.v1.pipe_pb2 import PipeFrame, PipeFrames

SPACING = 0.001
"""Seconds between two messages, at least. A message costs some 80 µs of CPU whatever it carries: a
frame that comes alone leaves at once, and under load those of a millisecond share one."""

LARGEST_MESSAGE = 1 << 20
"""Bytes of data and bodies after which a message is sent and another begun."""


class FrameQueue:
    """What one side has still to send. Its bound is the windows of the exchanges that feed it."""

    def __init__(self) -> None:
        self._frames: list[PipeFrame] = []
        self._wake = asyncio.Event()
        self._closed = False

    def put(self, frame: PipeFrame) -> None:
        self._frames.append(frame)
        self._wake.set()

    def close(self) -> None:
        """Ends `messages` once everything is sent."""
        self._closed = True
        self._wake.set()

    async def messages(self) -> AsyncIterator[PipeFrames]:
        """All that was put since the message before, each time there is something."""
        loop, free = asyncio.get_running_loop(), 0.0
        while True:
            await self._wake.wait()
            if (early := free - loop.time()) > 0 and not self._closed:
                await asyncio.sleep(early)
            self._wake.clear()
            frames, self._frames = self._frames, []
            for batch in _split(frames):
                yield PipeFrames(frames=batch)
            free = loop.time() + SPACING
            if self._closed and not self._frames:
                return


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
