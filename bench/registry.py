"""The benches, in the order in which they are run and the page has them."""

from bench import fleet, growth, side_by_side, soak, streams
from bench.benches import Bench

BENCHES: tuple[Bench, ...] = (
    side_by_side.BENCH,
    streams.BENCH,
    growth.BENCH,
    fleet.BENCH,
    soak.BENCH,
)
