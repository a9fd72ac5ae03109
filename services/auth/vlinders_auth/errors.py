"""What can go wrong in auth, as callers see it."""

from datetime import timedelta
from typing import ClassVar

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
        return (Violation("email", str(self), self.reason),)


class UsernameTaken(InvalidArgument):
    """There is an account with this username already."""

    @property
    def violations(self) -> tuple[Violation, ...]:
        return (Violation("username", str(self), self.reason),)


class PasswordTooShort(InvalidArgument):
    """A password has at least {shortest} characters."""

    field: str
    shortest: int

    @property
    def violations(self) -> tuple[Violation, ...]:
        return (Violation(self.field, str(self), "string.min_len"),)


class AccountNotFound(NotFound):
    """There is no such account."""


class AccountDisabled(PermissionDenied):
    """The account is deactivated."""


class NothingToChange(InvalidArgument):
    """At least one field to change is needed."""


class OwnAccount(InvalidArgument):
    """Nobody shuts himself out of the platform, nor of running it."""

    field: str

    @property
    def violations(self) -> tuple[Violation, ...]:
        return (Violation(self.field, str(self), self.reason),)


class LastOperator(FailedPrecondition):
    """Somebody has to run the platform, and this is the last who can."""


class InvalidCredentials(Unauthenticated):
    """Name or password is wrong."""


class WrongPassword(Unauthenticated):
    """The current password is wrong."""


class InvalidRefreshToken(Unauthenticated):
    """The refresh token is not valid."""


class CredentialNotFound(Unauthenticated):
    """The credential is not valid."""


class ApiKeyExpired(Unauthenticated):
    """The API key has expired."""


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
        return (Violation("expires_at", str(self), self.reason),)


class PermissionNotHeld(PermissionDenied):
    """An API key may do no more than its maker, whose role does not include {permission}."""

    permission: str


class OrganizationNotFound(NotFound):
    """There is no such organization."""


class NotItsAdmin(PermissionDenied):
    """Only an admin of the organization, or of the tenant, may do this."""


class OrganizationLimitReached(FailedPrecondition):
    """The tenant has the {limit} organizations that it may have."""

    limit: int


class MemberLimitReached(FailedPrecondition):
    """The organization has the {limit} members that it may have."""

    limit: int


class MemberNotFound(NotFound):
    """There is no such member."""


class LastAdmin(FailedPrecondition):
    """The organization needs an admin."""


class RoleNotHeld(PermissionDenied):
    """Nobody gives or takes a role above his own."""


class LastOwner(FailedPrecondition):
    """The tenant needs an owner."""


class InvitationLimitReached(FailedPrecondition):
    """As many as may be, {limit}, are asked to join the tenant already."""

    limit: int


class InvalidLink(InvalidArgument):
    """The link is not valid: it was used, has expired, or was replaced."""

    @property
    def violations(self) -> tuple[Violation, ...]:
        return (Violation("token", str(self), self.reason),)


class EmailAlreadyVerified(FailedPrecondition):
    """The e-mail is verified already."""


class TooManyMails(ResourceExhausted):
    """Too many mails were asked for. Please try again in {retry_seconds} s."""

    retry_seconds: int

    @property
    def retry_after(self) -> timedelta:  # type: ignore[override]
        return timedelta(seconds=self.retry_seconds)


class MailUnavailable(Unavailable):
    """No mail can be sent at the moment."""


class PermissionUnknown(InvalidArgument):
    """An API key can be allowed {known}, and nothing else."""

    place: int
    known: str

    @property
    def violations(self) -> tuple[Violation, ...]:
        return (Violation(f"permissions[{self.place}]", str(self), "string.in"),)


class OauthProviderUnknown(InvalidArgument):
    """There is no sign-in with this provider."""

    @property
    def violations(self) -> tuple[Violation, ...]:
        return (Violation("provider", str(self), self.reason),)


class OauthProviderNotConfigured(Unavailable):
    """Sign-in with this provider is not configured here."""

    retry_after: ClassVar[timedelta | None] = None  # type: ignore[assignment]


class OauthStateInvalid(InvalidArgument):
    """This sign-in was not begun here, is over, or took too long. Please begin again."""

    @property
    def violations(self) -> tuple[Violation, ...]:
        return (Violation("state", str(self), self.reason),)


class OauthRefused(Unauthenticated):
    """The provider has not confirmed who you are. Please begin again."""


class OauthProviderUnavailable(Unavailable):
    """The provider does not answer as it should at the moment. Please try again."""
