"""What the edge itself refuses, as errors like those of any service."""

from datetime import timedelta

from vlinders_kit.errors import (
    AppError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)


class InvalidCredential(Unauthenticated):
    """The credential is not valid."""


class TokenExpired(Unauthenticated):
    """The access token has expired."""


class ApiKeyExpired(Unauthenticated):
    """The API key has expired."""


class AccountDisabled(PermissionDenied):
    """The account is disabled."""


class IdentityUnavailable(Unavailable):
    """Credentials cannot be checked at the moment."""


class RateLimited(ResourceExhausted):
    """Too many requests: at most {limit} in {window_seconds} s. Try again in {wait_seconds} s."""

    limit: int
    window_seconds: int
    wait_seconds: int

    @property
    def retry_after(self) -> timedelta:  # type: ignore[override]
        return timedelta(seconds=self.wait_seconds)


class RouteNotFound(NotFound):
    """There is nothing at this address."""


class MethodNotAllowed(InvalidArgument):
    """This address does not take the method. It takes {allowed}."""

    allowed: str


class MalformedRequest(InvalidArgument):
    """The HTTP request is malformed: {what}."""

    what: str


class MalformedJson(InvalidArgument):
    """The body is not valid JSON: {what}."""

    what: str


class JsonTooDeep(InvalidArgument):
    """The body nests deeper than {most} levels."""

    most: int


class JsonTooManyParts(InvalidArgument):
    """The body has more than {most} values."""

    most: int


class BodyMissing(InvalidArgument):
    """The request needs a body: a JSON object."""


class BodyNotAnObject(InvalidArgument):
    """The body must be a JSON object."""


class BodyTooLarge(InvalidArgument):
    """The body is larger than {most_bytes} bytes."""

    most_bytes: int


class ContentEncoded(InvalidArgument):
    """The body must be sent as it is, without a Content-Encoding."""


class HeadersTooLarge(InvalidArgument):
    """The headers are too large or too many."""


class RequestTimeout(DeadlineExceeded):
    """The request did not arrive in time."""


class Overloaded(Unavailable):
    """Too much is going on at the moment."""


class InternalFault(AppError):
    """Something went wrong on our side."""
