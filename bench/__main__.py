"""`python -m bench`: what `make bench` and `make soak` run."""

import signal
import sys

from bench.machine import conditions
from bench.plan import ROOT, Plan, say
from bench.registry import BENCHES
from bench.tables import write

PAGE = ROOT / "bench" / "README.md"


def main(plan: Plan) -> int:
    # a shell ignores it for what it starts in the background, where a run of an hour belongs
    signal.signal(signal.SIGINT, signal.default_int_handler)
    names = frozenset(bench.name for bench in BENCHES)
    for bench in (bench for bench in BENCHES if bench.is_wanted(plan)):
        say(f"== {bench.name}: {bench.about}")
        tables = bench.run(plan)
        for table in tables:
            sys.stdout.write(f"\n{table.markdown()}\n")
        if plan.partial(names):
            say(f"bench/README.md keeps what it has of {bench.name}: this was a part of it")
        else:
            write(PAGE, bench.name, conditions(), tables)
    return 0


if __name__ == "__main__":
    sys.exit(main(Plan.read()))
