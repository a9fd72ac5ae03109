"""Where something was measured: what a reader has to know to compare it with anything."""

import os
import platform
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime
from pathlib import Path

from bench.plan import ROOT


def conditions() -> str:
    """The machine, the Python, the commit and the day, in a sentence for the page."""
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} at commit `{_commit()}`: {os.cpu_count()} cores"
        f" ({_cpu()}), {_memory_gib()} GiB, Linux {platform.release()}, {python()}."
    )


def python() -> str:
    """This Python, and whether its build is optimised, which is worth about a twentieth here."""
    if sys.base_prefix == "/usr":
        build = "the distribution's build"  # optimised by most, and silent about it
    elif "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""):
        build = "optimised build"
    else:
        build = "built without optimisations"
    return f"CPython {platform.python_version()} ({build})"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _commit() -> str:
    """The commit that is checked out; with a `+` when files were changed since."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"
