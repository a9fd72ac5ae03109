"""What can go wrong in auth, as callers see it."""

from datetime import timedelta

from vlinders_kit.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Violation,
)


class EmailTaken(InvalidArgument):
    """There is an account with this e-mail already."""

    @property
    def violations(self) -> tuple[Violation, ...]:
        return (Violation("email", str(self)),)


class AccountNotFound(NotFound):
    """There is no such account."""


class AccountDisabled(PermissionDenied):
    """The account is deactivated."""


class NothingToChange(InvalidArgument):
    """At least one field to change is needed."""


class InvalidCredentials(Unauthenticated):
    """E-mail or password is wrong."""


class InvalidRefreshToken(Unauthenticated):
    """The refresh token is not valid."""


class CredentialNotFound(Unauthenticated):
    """The credential is not valid."""


class TooManyAttempts(ResourceExhausted):
    """Too many sign-ins that failed. Please try again in {retry_seconds} s."""

    retry_seconds: int

    @property
    def retry_after(self) -> timedelta:  # type: ignore[override]
        return timedelta(seconds=self.retry_seconds)


class TooManyPasswords(Unavailable):
    """More sign-ins and registrations at the moment than can be checked. Please try again."""


class ApiKeyNotFound(NotFound):
    """There is no such API key."""


class KeyLimitReached(FailedPrecondition):
    """The account has the {limit} API keys that it may have."""

    limit: int


class ExpiryInThePast(InvalidArgument):
    """The expiry must be in the future."""

    @property
    def violations(self) -> tuple[Violation, ...]:
        return (Violation("expires_at", str(self)),)


class PermissionNotHeld(PermissionDenied):
    """An API key may do no more than its maker, whose role does not include {permission}."""

    permission: str
