"""What can go wrong in inference, as callers see it."""

from datetime import timedelta

import vlinders_kit.errors as kit


class ModelNotFound(kit.NotFound):
    """There is no model {model}."""

    model: str


class ModelNotPriced(kit.FailedPrecondition):
    """The model {model} has no price at the moment, and nothing is given away."""

    model: str


class InsufficientCredit(kit.FailedPrecondition):
    """The balance does not cover the {needed_nanos} billionths that this request may cost."""

    needed_nanos: int


class CreditUnavailable(kit.Unavailable):
    """Credit cannot be checked at the moment."""


class UsageNotKept(kit.Unavailable):
    """The use of this request could not be written down, so its end is not confirmed."""


class NoCapacity(kit.Unavailable):
    """Nobody can run the model {model} at the moment. Try again in {wait_seconds} s."""

    model: str
    wait_seconds: int = 2

    @property
    def retry_after(self) -> timedelta:  # type: ignore[override]
        return timedelta(seconds=self.wait_seconds)


class UpstreamFailed(kit.Unavailable):
    """The engine behind {model} failed: {cause}."""

    model: str
    cause: str
    """One of our own words for it, never the engine's."""


class UpstreamRefused(kit.InvalidArgument):
    """The engine behind {model} refused the request: {upstream_status}, {upstream_code}."""

    model: str
    upstream_status: int
    upstream_code: str
    """The engine's code, where it is one of the known ones; else `unspecified`."""


class ClientStalled(kit.DeadlineExceeded):
    """Nothing of the answer was taken for too long."""


class UnknownOperation(kit.NotFound):
    """Inference has no operation {operation}."""

    operation: str
