"""Waits for engines: each ends when it has gone on for too long, or when nobody waits any more.

One watch looks at all waits of the process a few times a second. A timer for each chunk would cost
more than the chunk.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from vlinders_kit import metrics

EVERY_SECONDS = 0.1
"""How late a wait may end."""


class Client(Protocol):
    """Whoever gets the answer."""

    cancelled: bool
    """It has left: what is sent is dropped."""

    def head(self, content_type: str) -> None:
        """Begins the answer."""

    def offer(self, data: bytes) -> bool:
        """Sends a piece of the answer at once, unless the client cannot take it; whether it did."""
        ...

    async def send(self, data: bytes) -> None:
        """Sends a piece of the answer; waits while the client cannot take it."""


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class TookTooLong(Exception):
    """What was waited for did not come in time."""


class Wait:
    """The waiting of one request, used again for each thing that it waits for.

        with wait.at_most(30):
            data = await response.read()

    `at_most` may be called again inside, for the next thing. Raises TookTooLong or, when the client
    leaves, ClientLeft in place of what the block waits for. An engine that can be stopped is told
    to first (`when_left`), and what it then still says is waited for.
    """

    __slots__ = (
        "_armed",
        "_deadline",
        "_left_at",
        "_settle",
        "_stop",
        "_task",
        "_tripped",
        "client",
    )

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        self.client = client
        self._stop: Callable[[], Any] | None = None
        self._settle = 0.0
        self._task = asyncio.current_task(loop)  # without the loop it costs a system call
        self._armed = False
        self._tripped = False
        self._deadline = 0.0
        self._left_at: float | None = None

    @property
    def left(self) -> bool:
        """Whether the client's leaving was noticed, so that the engine was told to stop."""
        return self._left_at is not None

    def when_left(self, stop: Callable[[], Any] | None, *, settle: float = 0.0) -> None:
        """From now on the client's leaving calls `stop`, and waits end so many seconds later."""
        self._stop, self._settle = stop, settle

    def at_most(self, seconds: float) -> "Wait":
        self._deadline = time.monotonic() + seconds
        return self

    def __enter__(self) -> None:
        self._armed = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._armed = False
        if not self._tripped:
            return
        self._tripped = False
        # As asyncio.timeout does it: a cancellation that is ours becomes an error of ours, but not
        # when somebody else has cancelled the task meanwhile.
        if self._task is not None and self._task.uncancel() > 0:
            return
        if kind is asyncio.CancelledError:
            raise (ClientLeft if self.left else TookTooLong) from None

    def check(self, now: float) -> None:
        """Ends the wait if it is time to. Called by the watch."""
        if not self._armed or self._tripped:
            return
        if self.client.cancelled and self._left_at is None:
            self._left_at = now
            if self._stop is not None:
                self._stop()
        if self._left_at is not None:
            self._deadline = min(self._deadline, self._left_at + self._settle)
        if now >= self._deadline and self._task is not None:
            self._tripped = True
            self._task.cancel()


class Watch:
    """Looks after the waits of all requests that run."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waits: set[Wait] = set()
        metrics.gauge(
            "vlinders_inference_running", "Admitted requests that run.", lambda: len(self._waits)
        )

    def begin(self, client: Client) -> Wait:
        """The wait of the request that the running task serves."""
        wait = Wait(client, self._loop)
        self._waits.add(wait)
        return wait

    def end(self, wait: Wait) -> None:
        self._waits.discard(wait)

    async def run(self) -> None:
        """Goes on until cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            now = time.monotonic()
            for wait in list(self._waits):
                wait.check(now)
