"""The diffs in docs/dialects.md apply, and what they make keeps what every dialect promises."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "dialects.md").read_text()
DIFFS = re.findall(r"^ *```diff\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)
SAID = re.findall(r"^ *```proto\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)


def test_what_is_quoted_of_the_contracts_is_there() -> None:
    lines = {
        line.strip()
        for file in ROOT.glob("proto/vlinders/**/*.proto")
        for line in file.read_text().splitlines()
    }
    quoted = [line.strip() for said in SAID for line in said.splitlines() if line.strip()]
    assert quoted
    assert set(quoted) <= lines


@pytest.mark.parametrize(
    ("diff", "dialect"),
    [*zip(DIFFS, ("maas", "lyss", "harbor"), strict=True)],
    ids=["endpoint", "error code", "sixth dialect"],
)
def test_a_diff_makes_what_the_page_says(diff: str, dialect: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "gateway", tmp_path / "gateway", ignore=shutil.ignore_patterns("golden"))
    apply = ["git", "apply", "-"]
    subprocess.run(apply, cwd=tmp_path, input=diff, text=True, check=True)

    tests = ["gateway/tests/test_dialects.py", "gateway/tests/test_openapi.py"]
    chosen = ["-k", f"TestEvery and {dialect}", "-p", "no:cacheprovider", "-q"]
    path = os.pathsep.join([str(tmp_path / "gateway"), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *chosen, *tests],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout[-3000:]
