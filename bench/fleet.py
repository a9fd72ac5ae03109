"""The fleet: what heartbeats and picks cost a scheduler, and how soon a lost worker is found."""

from collections.abc import Callable, Mapping, Sequence

from bench import fleet_beats, fleet_detection, fleet_picks
from bench.benches import Bench
from bench.plan import Plan
from bench.tables import Table

_PARTS: Mapping[str, Callable[[Plan], Table]] = {
    "beats": fleet_beats.table,
    "picks": fleet_picks.table,
    "detection": fleet_detection.table,
}


def run(plan: Plan) -> Sequence[Table]:
    parts = frozenset(_PARTS)
    return [table(plan) for name, table in _PARTS.items() if plan.wants(name, parts)]


BENCH = Bench("fleet", "heartbeats, picks and lost workers", run, parts=frozenset(_PARTS))
