"""Settings of the scheduler. Each is a `VLINDERS_GPU_SCHEDULER_…` variable of the environment."""

import socket
from datetime import timedelta
from typing import ClassVar

from pydantic import Field, SecretStr

from vlinders_gpu_scheduler.hub import Bounds
from vlinders_gpu_scheduler.states import Timers
from vlinders_kit.settings import ServiceSettings


class GpuSchedulerSettings(ServiceSettings):
    prefix: ClassVar = "VLINDERS_GPU_SCHEDULER"

    join_token: SecretStr = Field(min_length=24)
    """What a worker shows to join the fleet: at least 24 characters, the same for all workers."""

    instance: str = ""
    """Name of this replica, its own and the same after a restart; without one, host and port."""

    beat: timedelta = Field(timedelta(seconds=2), ge=timedelta(milliseconds=100))
    """Time between two beats of a worker, as `PT2S`."""

    lease: timedelta = Field(timedelta(seconds=15), gt=timedelta(0))
    """How long a worker that is not heard is waited for; at least five beats."""

    drain: timedelta = Field(timedelta(seconds=130), gt=timedelta(0))
    """What a worker that is drained has to finish what runs."""

    overcommit: float = Field(0.25, ge=0, le=4)
    """Requests a slot is given beyond those it runs at once, as a share of them; at least one."""

    hellos_per_second: float = Field(500.0, ge=1)
    """Workers that may join in a second; more are told to come again."""

    beats_per_second: float = Field(2500.0, ge=1)
    """Beats that this process takes in a second; a fleet that would have more beats less often."""

    @property
    def bounds(self) -> Bounds:
        timers = Timers(
            beat=self.beat.total_seconds(),
            lease=max(self.lease, 5 * self.beat).total_seconds(),
            drain=self.drain.total_seconds(),
        )
        return Bounds(
            timers=timers,
            overcommit=self.overcommit,
            hellos_per_second=self.hellos_per_second,
            beats_per_second=self.beats_per_second,
        )

    @property
    def holder(self) -> str:
        """Whose the fleet is while this replica is active."""
        return self.instance or f"{socket.gethostname()}:{self.port}"
