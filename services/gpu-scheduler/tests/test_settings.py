"""Settings, and the page that documents them."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vlinders_gpu_scheduler.settings import GpuSchedulerSettings

README = Path(__file__).parent.parent / "README.md"
REQUIRED = {
    "port": 50054,
    "caller_key": "0" * 64,
    "database_url": "postgresql://localhost/gpu_scheduler",
    "bus": "postgresql://localhost/bus",
    "join_token": "a join token that is long enough",
}


def settings(**over: Any) -> GpuSchedulerSettings:
    return GpuSchedulerSettings(**{**REQUIRED, **over})


def test_the_page_has_every_variable_and_no_other() -> None:
    rows = README.read_text().splitlines()
    told = {row.split("`")[1] for row in rows if row.startswith("| `VLINDERS_")}

    assert told == GpuSchedulerSettings.variables().keys()


def test_a_short_join_token_is_refused_and_not_shown() -> None:
    with pytest.raises(ValidationError) as caught:
        settings(join_token="short secret")

    assert "short secret" not in str(caught.value)


def test_a_lease_is_never_so_short_that_a_beat_may_not_be_late() -> None:
    timers = settings(beat=timedelta(seconds=4), lease=timedelta(seconds=5)).bounds.timers

    assert (timers.beat, timers.lease) == (4, 20)


def test_a_replica_has_a_name_that_is_its_own_and_lasts() -> None:
    assert settings().holder == settings().holder
    assert settings().holder.endswith(":50054")
    assert settings(instance="scheduler-0").holder == "scheduler-0"
