"""Half an hour of mixed load, a part of which is left by its clients: does the memory grow?"""

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.benches import Bench
from bench.cases import CASES
from bench.plan import Plan, say
from bench.processes import Snapshot, memory
from bench.programs import Answered, Programs, compiled, load, provider
from bench.runs import number
from bench.tables import Table
from bench.targets import ours
from bench.targets.target import Running

MINUTES, EVERY = 30.0, 10.0
"""How long by default, and seconds between two looks at the memory."""
LOAD = {"json-16": 10.0, "paced-16": 4.0}
"""Case → how many requests of its kind a second."""
LEAVING = 0.2
"""Share of the requests that their clients leave within 300 ms."""
FLAT = 2.0
"""MB an hour below which a process counts as flat: 16 MB in eight hours."""


@dataclass(frozen=True)
class Sample:
    hours: float
    """Since the load began."""
    megabytes: float
    """Of memory that no file is behind: mapped files come and go with what else runs here."""
    resident: float
    """Of the largest process, everything."""


Grown = Mapping[str, Sequence[Sample]]
"""Part → its memory over time, of all its processes together."""


def run(plan: Plan) -> Sequence[Table]:
    minutes = 1.0 if plan.quick else float(os.environ.get("MINUTES", MINUTES))
    programs = compiled(plan.folder)
    with TemporaryDirectory(prefix="bench-") as folder, provider(programs) as behind:
        say("starting ours")
        with ours.stack(behind, Path(folder)) as running:
            answered, grown = _soaked(programs, running, minutes)
    return [_memory_table(grown, minutes), _load_table(answered)]


def _soaked(
    programs: Programs, running: Running, minutes: float
) -> tuple[Mapping[str, Answered], Grown]:
    began = time.monotonic()
    grown: dict[str, list[Sample]] = {}
    with ThreadPoolExecutor(len(LOAD)) as threads:
        loads = {
            name: threads.submit(_loaded, programs, running, name, rate, minutes * 60)
            for name, rate in LOAD.items()
        }
        while not all(future.done() for future in loads.values()):
            _look(running, began, grown)
            _tell(began, minutes, grown, loads)
            time.sleep(EVERY)
        return {name: future.result() for name, future in loads.items()}, grown


def _loaded(
    programs: Programs, running: Running, name: str, rate: float, seconds: float
) -> Answered:
    case = next(case for case in CASES if case.name == name)
    options = ("-c", "256", "-w", "0", "-d", str(seconds), "-r", str(rate), "-l", str(LEAVING))
    return load(programs, running.door, case.body, *options)


def _look(running: Running, began: float, grown: dict[str, list[Sample]]) -> None:
    snapshot = Snapshot.take()
    hours = (time.monotonic() - began) / 3600
    for part, roots in running.parts().items():
        size = memory(snapshot.tree(roots))
        grown.setdefault(part, []).append(Sample(hours, size.own, size.largest))


def _tell(
    began: float, minutes: float, grown: Grown, loads: Mapping[str, Future[Answered]]
) -> None:
    passed = (time.monotonic() - began) / 60
    sizes = ", ".join(f"{part} {samples[-1].megabytes:.1f}" for part, samples in grown.items())
    say(f"{passed:.1f} of {minutes:g} min: {sizes} MB")


def slope(samples: Sequence[Sample]) -> float:
    """MB an hour: the median of the slopes between all pairs (Theil and Sen), which a single step
    or a collection of garbage does not move."""
    slopes = [
        (later.megabytes - sooner.megabytes) / (later.hours - sooner.hours)
        for sooner, later in combinations(samples, 2)
    ]
    return median(slopes) if slopes else 0.0


def _memory_table(grown: Grown, minutes: float) -> Table:
    rows = []
    for part, samples in grown.items():
        warm = samples[len(samples) // 3 :]
        late = samples[len(samples) * 2 // 3 :]
        slopes = [slope(warm), slope(late)]
        sizes = [one.megabytes for one in (samples[0], warm[0], samples[-1])]
        figures = (*sizes, *slopes, samples[-1].resident)
        rows.append([part, *map(number, figures), _verdict(slopes)])
    return Table(
        f"Memory in {minutes:g} minutes of mixed load, MB, of all processes of a part",
        [
            *("", "at first", "after a third", "at last"),
            *("MB/h, last two thirds", "MB/h, last third", "largest process, RSS", ""),
        ],
        rows,
        (
            "Counted is what no file is behind, so neither code nor what others map as well.",
            f"Flat is below {FLAT:g} MB an hour in the last third; slopes are Theil and Sen's.",
            "PostgreSQL grows into the shared memory that it was given, and no further.",
        ),
    )


def _verdict(slopes: Sequence[float]) -> str:
    return "flat" if slopes[-1] < FLAT else "**grows**"


def _load_table(answered: Mapping[str, Answered]) -> Table:
    rows = []
    for name, one in answered.items():
        latency = (one.latency_us["p50"] / 1000, one.latency_us["p99"] / 1000)
        counted = (one.sent, one.whole, one.left, one.failed)
        rows.append([name, f"{LOAD[name]:g}", *map(str, counted), *map(number, latency)])
    columns = ["", "a second", "sent", "answered", "left", "failed", "p50 ms", "p99 ms"]
    return Table("The load meanwhile", columns, rows)


BENCH = Bench("soak", "half an hour of mixed load: does the memory grow?", run, by_default=False)
