"""The page tells every setting."""

import re
from pathlib import Path

from vlinders_worker.settings import WorkerSettings

PAGE = Path(__file__).parents[1] / "README.md"


def test_every_variable_is_on_the_page() -> None:
    told = set(re.findall(r"^\| `(VLINDERS_WORKER_\w+)`", PAGE.read_text(), re.MULTILINE))

    assert told == WorkerSettings.variables().keys()


def test_every_setting_has_its_sentence() -> None:
    assert all(WorkerSettings.variables().values())
