"""The benches, in the order in which they are run and the page has them."""

from bench import side_by_side
from bench.benches import Bench

BENCHES: tuple[Bench, ...] = (side_by_side.BENCH,)
