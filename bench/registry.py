"""The benches, in the order in which they are run and the page has them."""

from bench.benches import Bench

BENCHES: tuple[Bench, ...] = ()
