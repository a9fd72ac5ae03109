"""Own workers, as this replica reaches them, and what becomes of those that fall silent.

A worker that is cut off or stands still breaks no connection: nothing comes any more, and nothing
comes from an engine that reads a long prompt either. So it is asked whether it lives, over the way
that its answers take, when the scheduler suspects it, and also when none of all that it is to
answer here goes on. The scheduler misses its beats, but cannot tell whether the worker is gone or a
line of its own, and waits longer for one whose beats came irregularly. Of a worker that does not
say that it lives, the connections on which nothing came meanwhile are broken: streams end with an
error, and what had not begun goes elsewhere.
"""

import asyncio
from collections.abc import Set

from vlinders.gpu_scheduler.v1.picks_pb2 import Target as Slot
from vlinders_inference.connections import Target, head_of
from vlinders_inference.responses import Disconnected
from vlinders_kit import logs

ANSWER_SECONDS = 1.5
"""What a worker may take to say that it lives: a packet that is lost is sent again within one."""

RECEIVE_BYTES = 64 * 1024
"""Of a worker's answer that the kernel keeps here (Linux takes twice as many)."""

REST_SECONDS = 0.5
"""Between an answer of a suspect and the next question."""

LOOK_SECONDS = 0.5
"""How often it is looked who has fallen silent."""

SILENT_LOOKS = 7
"""After so many in a row that found nothing, a worker is asked. Looks are counted and not seconds:
when it was this process that stood still, that was one look, however long it took."""

log = logs.get(__name__)


class Workers:
    """The connections to own workers, for each epoch of a worker apart: what is over is broken, and
    what the same worker does later is not."""

    def __init__(self, *, connect_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._targets: dict[tuple[int, str], Target] = {}
        """By epoch, of which no two workers have the same, and address."""
        self._suspects: Set[int] = frozenset()
        self._asking: dict[tuple[int, str], asyncio.Task[None]] = {}
        self._silent_looks: dict[tuple[int, str], int] = {}
        self._look_again: asyncio.TimerHandle | None = None

    def target(self, slot: Slot) -> Target:
        """Where requests to the slot go. Raises ValueError for an address that is none."""
        key = slot.epoch, slot.address
        target = self._targets.get(key)
        if target is None:
            self._forget_unused()
            target = Target(
                slot.address,
                connect_seconds=self._connect_seconds,
                receive_bytes=RECEIVE_BYTES,
            )
            self._targets[key] = target
            self._ask_suspect(*key)
        if self._look_again is None:
            self._look_later()
        return target

    def suspect(self, epochs: Set[int]) -> None:
        """Told whenever other workers are suspect than before: all that are, by their epochs."""
        cleared, self._suspects = self._suspects - epochs, epochs
        for key in [key for key in self._asking if key[0] in cleared]:
            self._asking.pop(key).cancel()
        for key in self._targets:
            self._ask_suspect(*key)

    def close(self) -> None:
        if self._look_again is not None:
            self._look_again.cancel()
        for asking in self._asking.values():
            asking.cancel()
        for target in self._targets.values():
            target.close()

    def _ask_suspect(self, epoch: int, address: str) -> None:
        if epoch in self._suspects:
            self._ask((epoch, address))

    def _ask(self, key: tuple[int, str]) -> None:
        if key not in self._asking:
            self._asking[key] = asyncio.create_task(self._keep_asking(key))

    async def _keep_asking(self, key: tuple[int, str]) -> None:
        """Goes on for as long as the worker is suspect: it may be gone only later, and come again.
        One that is not is asked once."""
        epoch, address = key
        target = self._targets[key]
        try:
            while True:
                if target.connected:
                    target.listen()
                    if not await _lives(target) and (broken := target.break_silent()):
                        log.warning("worker_gone", address=address, epoch=epoch, connections=broken)
                if epoch not in self._suspects:
                    return
                await asyncio.sleep(REST_SECONDS)
        finally:
            if self._asking.get(key) is asyncio.current_task():
                del self._asking[key]

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._look_again = loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Asks those of whom nothing came in the last looks, though something is to come."""
        self._look_again = None
        before, self._silent_looks = self._silent_looks, {}
        for key, target in self._targets.items():
            if key in self._asking:
                continue
            if target.silent:
                self._silent_looks[key] = before.get(key, 0) + 1
            target.listen()
            if self._silent_looks.get(key, 0) >= SILENT_LOOKS:
                del self._silent_looks[key]
                self._ask(key)
        if any(target.connected for target in self._targets.values()):
            self._look_later()

    def _forget_unused(self) -> None:
        """Workers come and go, and their addresses with them."""
        for key in [key for key, target in self._targets.items() if not target.connected]:
            del self._targets[key]
            if key in self._asking:
                self._asking.pop(key).cancel()


async def _lives(target: Target) -> bool:
    """Whether it answers, whatever it says."""
    question = head_of("/healthz", target.host_header, {}, method="GET")
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await target.post(question, b"")
            while not answer.ended:
                await answer.read()
    except (Disconnected, TimeoutError):
        return False
    return True
