"""What processes have used: processor time of whole trees, from /proc, and memory."""

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    parent: int
    seconds: float
    """Of processor time, its own and that of children that have ended and were waited for."""


@dataclass(frozen=True)
class Snapshot:
    """Every process at one moment, and how long the processors have been busy until then."""

    processes: dict[int, Process]
    busy: float

    @classmethod
    def take(cls) -> "Snapshot":
        busy = _busy()
        found = {}
        for entry in _PROC.iterdir():
            if entry.name.isdigit() and (process := _read(entry)):
                found[int(entry.name)] = process
        return cls(found, busy)

    def tree(self, roots: Iterable[int]) -> set[int]:
        """The processes and all that descend from them."""
        children = defaultdict(list)
        for pid, process in self.processes.items():
            children[process.parent].append(pid)
        found: set[int] = set()
        waiting = [pid for pid in roots if pid in self.processes]
        while waiting:
            pid = waiting.pop()
            if pid not in found:
                found.add(pid)
                waiting += children[pid]
        return found

    def seconds(self, roots: Iterable[int]) -> float:
        """Processor time of the trees. The difference of two snapshots is what was used between."""
        return sum(self.processes[pid].seconds for pid in self.tree(roots))


@dataclass(frozen=True)
class Memory:
    """In MB."""

    resident: float
    """What each process has in memory, added up: shared pages count for everyone who has them."""
    proportional: float
    """The same with shared pages split among those who have them."""
    own: float
    """Of it what no file is behind, neither code nor data: what can leak."""
    largest: float
    """Resident, of the largest process."""


def memory(pids: Iterable[int]) -> Memory:
    """Of these processes alone, without descendants."""
    found = [sizes for pid in pids if (sizes := _sizes(pid))]
    resident = [sizes["Rss:"] for sizes in found]
    return Memory(
        resident=sum(resident),
        proportional=sum(sizes["Pss:"] for sizes in found),
        own=sum(sizes["Pss_Anon:"] + sizes["Pss_Shmem:"] for sizes in found),
        largest=max(resident, default=0.0),
    )


def _sizes(pid: int) -> dict[str, float] | None:
    """In MB, by the names that the kernel has for them."""
    try:
        told = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:  # it has ended
        return None
    rows = (line.split() for line in told.splitlines()[1:])
    return {row[0]: float(row[1]) * 1024 / 1e6 for row in rows}


def _read(entry: Path) -> Process | None:
    try:
        told = (entry / "stat").read_text()
    except OSError:  # it has ended
        return None
    fields = told.rpartition(")")[2].split()  # its name may have spaces and brackets
    return Process(int(fields[1]), sum(map(int, fields[11:15])) * _TICK)


def _busy() -> float:
    """Seconds that all processors together did not idle."""
    with (_PROC / "stat").open() as file:
        user, nice, system, _, _, *interrupts = map(int, file.readline().split()[1:8])
    return (user + nice + system + sum(interrupts)) * _TICK
