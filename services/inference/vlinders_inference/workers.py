"""Own workers, as this replica reaches them, and what becomes of those that the scheduler suspects.

A worker that is cut off or stands still breaks no connection: nothing comes any more, and nothing
comes from an engine that reads a long prompt either. The scheduler suspects it once its beats stay
away, but cannot tell whether the worker is gone or a line of its own. So a suspect is asked from
here, over the way that its answers take. Of one that does not answer, the connections on which
nothing came meanwhile are broken: streams end with an error, and what had not begun goes elsewhere.
"""

import asyncio
from collections.abc import Set

from vlinders.gpu_scheduler.v1.picks_pb2 import Target as Slot
from vlinders_inference.connections import Target, head_of
from vlinders_inference.responses import Disconnected
from vlinders_kit import logs

ANSWER_SECONDS = 1.5
"""What a suspect may take to say that it lives: a packet that is lost is sent again within one."""

REST_SECONDS = 0.5
"""Between an answer of a suspect and the next question."""

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

    def target(self, slot: Slot) -> Target:
        """Where requests to the slot go. Raises ValueError for an address that is none."""
        key = slot.epoch, slot.address
        target = self._targets.get(key)
        if target is None:
            self._forget_unused()
            target = Target(slot.address, connect_seconds=self._connect_seconds)
            self._targets[key] = target
            self._ask_suspect(*key)
        return target

    def suspect(self, epochs: Set[int]) -> None:
        """Told whenever other workers are suspect than before: all that are, by their epochs."""
        self._suspects = epochs
        for key in [key for key in self._asking if key[0] not in epochs]:
            self._asking.pop(key).cancel()
        for key in self._targets:
            self._ask_suspect(*key)

    def close(self) -> None:
        self.suspect(frozenset())
        for target in self._targets.values():
            target.close()

    def _ask_suspect(self, epoch: int, address: str) -> None:
        key = epoch, address
        if epoch in self._suspects and key not in self._asking:
            asking = _keep_asking(epoch, address, self._targets[key])
            self._asking[key] = asyncio.create_task(asking)

    def _forget_unused(self) -> None:
        """Workers come and go, and their addresses with them."""
        for key in [key for key, target in self._targets.items() if not target.connected]:
            del self._targets[key]
            if key in self._asking:
                self._asking.pop(key).cancel()


async def _keep_asking(epoch: int, address: str, target: Target) -> None:
    """Goes on for as long as the worker is suspect: it may be gone only later, and come again."""
    while True:
        if target.connected:
            target.listen()
            if not await _lives(target) and (broken := target.break_silent()):
                log.warning("worker_gone", address=address, epoch=epoch, connections=broken)
        await asyncio.sleep(REST_SECONDS)


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
