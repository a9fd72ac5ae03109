"""What is measured of the fleet: by the active replica; a standby's numbers are nought."""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from vlinders_gpu_scheduler.states import State
from vlinders_gpu_scheduler.workers import Worker

_ACTIVE = Gauge("vlinders_gpu_scheduler_active", "1 on the replica that has the fleet.")
_WORKERS = Gauge("vlinders_gpu_scheduler_workers", "Workers that live.", ["state"])
_OUTSTANDING = Gauge("vlinders_gpu_scheduler_outstanding", "Requests on workers, and on their way.")
_ALARM = Gauge("vlinders_gpu_scheduler_many_silent", "1 while so many are silent that few end.")
_ALARMS = Counter("vlinders_gpu_scheduler_silence_alarms", "Times that many fell silent at once.")


def fleet(workers: Iterable[Worker]) -> None:
    """Takes in how the fleet is now."""
    _ACTIVE.set(1)
    tally: Tally[State] = Tally()
    outstanding = 0
    for worker in workers:
        tally[worker.life.state] += 1
        outstanding += len(worker.unplaced)
        for slot in worker.slots.values():
            outstanding += len(slot.running) + len(slot.unseen)
    for state in State:
        _WORKERS.labels(state).set(tally[state])
    _OUTSTANDING.set(outstanding)


def standby() -> None:
    """This replica has no fleet, or no more."""
    fleet(())
    _ACTIVE.set(0)
    _ALARM.set(0)


def many_silent(alarmed: bool) -> None:
    _ALARM.set(alarmed)
    if alarmed:
        _ALARMS.inc()
