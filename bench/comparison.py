"""The tables of the targets side by side: costs, latencies, rates, memory, and where we stand."""

from collections.abc import Mapping, Sequence

from bench.measuring import Measured
from bench.tables import Table


def tables_of(measured: Sequence[Measured], absent: Mapping[str, str]) -> list[Table]:
    return []
