"""Processor time is that of whole trees of processes, and being alone is being alone."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.plan import Disturbed, Plan
from bench.processes import Snapshot, memory

BURN = "import time\nwhile time.process_time() < 0.2: pass\n"


def test_children_count_with_their_parents_when_they_have_ended_too() -> None:
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])\ninput()"
    with subprocess.Popen(
        [sys.executable, "-uc", parent + "\nprint()\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        before = Snapshot.take().seconds([process.pid])
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()  # the child has ended
        used = Snapshot.take().seconds([process.pid]) - before
        size = memory([process.pid])
        process.stdin.write(b"\n")

    assert used >= 0.15
    assert 0 < size.own < size.proportional <= size.resident == size.largest


def test_a_process_that_is_not_there_uses_nothing() -> None:
    assert Snapshot.take().seconds([2**30]) == 0
    assert memory([2**30]).largest == 0


def test_nobody_else_has_the_lock_meanwhile(tmp_path: Path) -> None:
    lock = shlex.quote(str(tmp_path / "lock"))

    def is_free() -> bool:
        return subprocess.run(f"flock -n {lock} true", shell=True, check=False).returncode == 0

    with Plan.read({"BENCH_ALONE": f"flock {lock}"}).alone():
        assert not is_free()
    assert is_free()


def test_a_lock_that_gives_up_too_early_spoils_the_measurement() -> None:
    with pytest.raises(Disturbed), Plan.read({"BENCH_ALONE": "timeout 0.1"}).alone():
        subprocess.run(["sleep", "0.3"], check=True)


def test_a_part_of_a_bench_leaves_the_page_alone() -> None:
    benches = frozenset({"streams", "soak"})

    assert not Plan.read({}).partial(benches)
    assert not Plan.read({"ONLY": "streams"}).partial(benches)
    assert Plan.read({"ONLY": "ours json-64"}).partial(benches)
    assert Plan.read({"ONLY": "streams", "QUICK": "1"}).partial(benches)
