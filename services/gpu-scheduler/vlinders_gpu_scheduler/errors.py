"""What can go wrong in the scheduler, as callers see it."""

from datetime import timedelta

from vlinders_kit.errors import (
    Aborted,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unauthenticated,
    Unavailable,
)


class InvalidJoinToken(Unauthenticated):
    """The join token is missing or wrong."""


class HelloExpected(InvalidArgument):
    """A worker's stream begins with one Hello, and has no other."""


class StaleEpoch(Aborted):
    """Epoch {epoch} of worker {worker_id} is over, or a newer stream speaks for it."""

    worker_id: str
    epoch: int


class WorkerDrained(FailedPrecondition):
    """Worker {worker_id} was drained. It takes part again once its agent is restarted."""

    worker_id: str


class WorkerNotFound(NotFound):
    """There is no worker {worker_id}."""

    worker_id: str


class NotActive(Unavailable):
    """This replica of the scheduler is a standby."""


class TooManyHellos(Unavailable):
    """Too many workers say hello at once."""


class RegistryUnavailable(Unavailable):
    """Workers cannot be registered at the moment: the database does not answer."""


class NoWorker(Unavailable):
    """No worker can take a request for {model} at the moment."""

    model: str
    wait_seconds: int = 2

    @property
    def retry_after(self) -> timedelta:  # type: ignore[override]
        return timedelta(seconds=self.wait_seconds)
