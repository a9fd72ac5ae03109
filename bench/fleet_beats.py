"""Heartbeats: what a fleet of so many workers costs one scheduler process while nothing happens."""

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import uvloop

from bench.fleet_scheduler import JOIN_TOKEN, SchedulerProcess, scheduler_process
from bench.fleet_wire import WorkerWire
from vlinders.gpu_scheduler.v1 import workers_pb2 as pb

JOINING = 200
"""Workers that say hello at once; a scheduler admits 500 in a second."""


@dataclass
class Fleet:
    """Workers on real streams that beat, each when its Welcome says."""

    address: str
    joined: int = 0
    lost: int = 0
    answers: int = 0
    round_trips: list[float] = field(default_factory=list)
    _wires: list[WorkerWire] = field(default_factory=list)
    _waiting: dict[WorkerWire, asyncio.Future[None]] = field(default_factory=dict)
    _epochs: dict[WorkerWire, int] = field(default_factory=dict)
    _sent: dict[WorkerWire, tuple[int, float]] = field(default_factory=dict)
    _periods: dict[WorkerWire, float] = field(default_factory=dict)

    async def join(self, count: int) -> None:
        gate = asyncio.Semaphore(JOINING)

        async def one(number: int) -> None:
            async with gate:
                await self._join(number)

        await asyncio.gather(*map(one, range(count)))

    def restart_figures(self) -> None:
        self.answers = 0
        self.round_trips.clear()

    async def _join(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        host, _, port = self.address.rpartition(":")
        _, wire = await loop.create_connection(
            lambda: WorkerWire(JOIN_TOKEN, self._heard, self._ended), host, int(port)
        )
        welcomed = self._waiting[wire] = loop.create_future()
        slot = pb.Slot(id="slot", model="model", state=pb.Slot.STATE_READY, parallel=8)
        wire.say(
            pb.WorkerMessage(
                hello=pb.Hello(
                    worker_id=f"worker_{number}",
                    boot_id=f"boot_{number}",
                    agent_version="bench",
                    address="http://127.0.0.1:1",
                    host_name=f"host-{number}",
                    inventory=pb.Inventory(slots=[slot], memory_bytes=1, cpu_count=1),
                )
            )
        )
        await welcomed
        self.joined += 1
        self._wires.append(wire)

    def _heard(self, wire: WorkerWire, message: pb.HubMessage) -> None:
        now = time.perf_counter()
        if message.HasField("welcome"):
            welcome = message.welcome
            self._epochs[wire] = welcome.epoch
            self._periods[wire] = welcome.beat_period.ToTimedelta().total_seconds()
            self._waiting.pop(wire).set_result(None)
            delay = random.uniform(0, self._periods[wire])
            asyncio.get_running_loop().call_later(delay, self._beat, wire, 1)
        elif message.HasField("lease"):
            seq, sent_at = self._sent[wire]
            if message.lease.beat_seq == seq:
                self.answers += 1
                self.round_trips.append(now - sent_at)

    def _beat(self, wire: WorkerWire, seq: int) -> None:
        if wire not in self._epochs:
            return
        self._sent[wire] = (seq, time.perf_counter())
        wire.say(pb.WorkerMessage(beat=pb.Beat(seq=seq, epoch=self._epochs[wire])))
        pause = self._periods[wire] * random.uniform(0.9, 1.1)
        asyncio.get_running_loop().call_later(pause, self._beat, wire, seq + 1)

    def _ended(self, wire: WorkerWire) -> None:
        self.lost += 1
        self._epochs.pop(wire, None)


async def measure(scheduler: SchedulerProcess, workers: int, seconds: float) -> dict[str, float]:
    empty = scheduler.rss()
    fleet = Fleet(scheduler.address)
    began = time.perf_counter()
    await fleet.join(workers)
    joining = time.perf_counter() - began
    await asyncio.sleep(5)
    fleet.restart_figures()
    cpu, own, began = scheduler.cpu_seconds(), time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    used, took = scheduler.cpu_seconds() - cpu, time.perf_counter() - began
    trips = sorted(fleet.round_trips)
    return {
        "workers": workers,
        "joined_in": joining,
        "beats_per_second": fleet.answers / took,
        "cpu_per_1000": used / fleet.answers * 1000,
        "core": used / took * 100,
        "rtt_p50": trips[len(trips) // 2] * 1e3,
        "rtt_p99": trips[int(len(trips) * 0.99)] * 1e3,
        "rss_per_worker": (scheduler.rss() - empty) / workers / 1024,
        "lost": fleet.lost,
        "generator": (time.process_time() - own) / took * 100,
    }


def main(counts: Sequence[int], seconds: float) -> None:
    for workers in counts:
        with scheduler_process() as scheduler:
            found = uvloop.run(measure(scheduler, workers, seconds))
        sys.stdout.write(f"{ {name: round(value, 2) for name, value in found.items()} }\n")


if __name__ == "__main__":
    main([int(workers) for workers in sys.argv[2:]], float(sys.argv[1]))
