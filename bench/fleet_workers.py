"""Workers that beat: as many as wanted, on streams of their own, in this process.

`python -m bench.fleet_workers ADDRESS ID SLOT=MODEL …` is one that can be killed and frozen.
"""

import asyncio
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import uvloop

from bench.fleet_scheduler import JOIN_TOKEN
from bench.fleet_wire import Wire
from vlinders.gpu_scheduler.v1 import workers_pb2 as pb

CONNECT = "/vlinders.gpu_scheduler.v1.WorkerService/Connect"

JOINING = 200
"""Workers that say hello at once; a scheduler admits 500 in a second."""

JITTER = 0.1
"""Beats are apart by the period ± this share, as those of agents are."""


@dataclass(frozen=True)
class Description:
    """What a worker says of itself. `slots` has models by the ids of slots."""

    id: str
    slots: Mapping[str, str]
    parallel: int = 8

    def hello(self) -> bytes:
        slots = [
            pb.Slot(id=id, model=model, state=pb.Slot.STATE_READY, parallel=self.parallel)
            for id, model in self.slots.items()
        ]
        message = pb.WorkerMessage(
            hello=pb.Hello(
                worker_id=self.id,
                boot_id=f"boot_of_{self.id}",
                agent_version="bench",
                address="http://127.0.0.1:1",
                host_name=self.id,
                inventory=pb.Inventory(slots=slots, memory_bytes=1, cpu_count=1),
            )
        )
        return message.SerializeToString()


@dataclass
class Fleet:
    """Workers at the scheduler at `address`, each beating when it was told to."""

    address: str
    lost: int = 0
    round_trips: list[float] = field(default_factory=list)
    """Seconds from a beat to its answer."""
    _workers: dict[Wire, "_Beating"] = field(default_factory=dict)
    _unheard: set[Wire] = field(default_factory=set)
    """Those of which no beat has been answered yet."""
    _all_heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def join(self, *descriptions: Description) -> None:
        """Returns when all of them are registered. Raises ConnectionError where one is not."""
        gate = asyncio.Semaphore(JOINING)

        async def one(description: Description) -> None:
            async with gate:
                await self._join(description)

        await asyncio.gather(*map(one, descriptions))

    async def heard(self) -> None:
        """Returns when each has been answered a beat: all of them are ONLINE then."""
        await self._all_heard.wait()

    def leave(self) -> None:
        """Breaks all streams off."""
        for wire in list(self._workers):
            wire.break_off()

    async def _join(self, description: Description) -> None:
        loop = asyncio.get_running_loop()
        host, _, port = self.address.rpartition(":")
        _, wire = await loop.create_connection(
            lambda: Wire(CONNECT, ("vlinders-join-token", JOIN_TOKEN), self._heard, self._ended),
            host,
            int(port),
        )
        self._workers[wire] = beating = _Beating(loop.create_future())
        self._unheard.add(wire)
        self._all_heard.clear()
        wire.say(description.hello())
        await beating.welcomed

    def _heard(self, wire: Wire, body: bytes) -> None:
        message = pb.HubMessage.FromString(body)
        beating = self._workers[wire]
        if message.HasField("welcome"):
            beating.epoch = message.welcome.epoch
            beating.period = message.welcome.beat_period.ToTimedelta().total_seconds()
            beating.welcomed.set_result(None)
            delay = 0 if len(self._workers) == 1 else random.uniform(0, beating.period)
            asyncio.get_running_loop().call_later(delay, self._beat, wire)
        elif message.HasField("lease") and message.lease.beat_seq == beating.seq:
            self.round_trips.append(time.perf_counter() - beating.sent_at)
            beating.answered = beating.seq
            self._note_heard(wire)
            if message.lease.HasField("beat_period"):
                beating.period = message.lease.beat_period.ToTimedelta().total_seconds()

    def _beat(self, wire: Wire) -> None:
        beating = self._workers.get(wire)
        if beating is None:
            return
        beating.seq += 1
        beating.sent_at = time.perf_counter()
        beat = pb.Beat(seq=beating.seq, epoch=beating.epoch, answered=beating.answered)
        wire.say(pb.WorkerMessage(beat=beat).SerializeToString())
        pause = beating.period * random.uniform(1 - JITTER, 1 + JITTER)
        asyncio.get_running_loop().call_later(pause, self._beat, wire)

    def _note_heard(self, wire: Wire) -> None:
        self._unheard.discard(wire)
        if not self._unheard:
            self._all_heard.set()

    def _ended(self, wire: Wire) -> None:
        self.lost += 1
        self._note_heard(wire)
        beating = self._workers.pop(wire, None)
        if beating is not None and not beating.welcomed.done():
            beating.welcomed.set_exception(ConnectionError("a worker was not taken"))


@dataclass(eq=False)
class _Beating:
    """Where one worker stands."""

    welcomed: asyncio.Future[None]
    epoch: int = 0
    period: float = 2.0
    seq: int = 0
    answered: int = 0
    sent_at: float = 0.0


async def _alone(address: str, description: Description) -> None:
    fleet = Fleet(address)
    await fleet.join(description)
    sys.stdout.write("joined\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    told = dict(word.split("=", 1) for word in sys.argv[3:])
    uvloop.run(_alone(sys.argv[1], Description(sys.argv[2], told, parallel=1_000)))
