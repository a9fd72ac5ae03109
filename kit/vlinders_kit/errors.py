"""What can go wrong, as classes; and how it travels between parts, as a `google.rpc.Status`."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import lru_cache
from typing import ClassVar, dataclass_transform

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status


@dataclass(frozen=True)
class Violation:
    """One field of a request that breaks a rule: its path, as in `messages[0].role`, and why."""

    field: str
    message: str
    rule: str = ""
    """Which rule, as `string.min_len`, for those who say it in words of their own."""


_REMEMBERED = 256
"""Errors as they travel. Under load the same are told again and again, and each time to write one
and to read it would take a tenth of a millisecond."""

_MOST_VIOLATIONS = 20
_LONGEST = 300
"""Characters of one text of an error. The whole has to fit in the 8 KiB of a call's trailers, else
the caller gets RESOURCE_EXHAUSTED in its place."""


@dataclass_transform(kw_only_default=True, eq_default=False)
class AppError(Exception):
    """Something failed."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    retry_after: ClassVar[timedelta | None] = None
    """When asking again makes sense, where it does."""
    _names: ClassVar[tuple[str, ...]] = ()
    """Of its fields."""

    def __init_subclass__(cls) -> None:
        # Here, since a dataclass without a docstring gets its signature for one.
        cls.__doc__ = cls.__doc__ or cls.__mro__[1].__doc__
        dataclass(kw_only=True, eq=False)(cls)
        cls._names = tuple(each.name for each in fields(cls))  # type: ignore[arg-type]
        cls.reason = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).upper()

    @property
    def facts(self) -> dict[str, str]:
        return {name: str(getattr(self, name)) for name in self._names}

    @property
    def violations(self) -> tuple[Violation, ...]:
        return ()

    def __str__(self) -> str:
        return " ".join((self.__doc__ or "").split()).format(**self.facts)


class InvalidArgument(AppError):
    """The request is not valid."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class Unauthenticated(AppError):
    """The credential is missing or not valid."""

    status = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(AppError):
    """The caller may not do this."""

    status = grpc.StatusCode.PERMISSION_DENIED


class NotFound(AppError):
    """There is no such thing."""

    status = grpc.StatusCode.NOT_FOUND


class AlreadyExists(AppError):
    """This exists already."""

    status = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(AppError):
    """Not in the state that this needs."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(AppError):
    """Somebody else changed it at the same time."""

    status = grpc.StatusCode.ABORTED


class ResourceExhausted(AppError):
    """A limit is reached."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(AppError):
    """Not available at the moment."""

    status = grpc.StatusCode.UNAVAILABLE
    retry_after = timedelta(seconds=1)


class DeadlineExceeded(AppError):
    """It took longer than it may."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


Meaning = Callable[[Exception], AppError | None]
_meanings: list[Meaning] = []


def told_by(meaning: Meaning) -> None:
    """Has failures of a library be what `meaning` says: whoever brings the library knows them."""
    _meanings.append(meaning)


def meaning_of(error: Exception) -> AppError | None:
    """What a failure of a library means; None for what nobody knows."""
    return next(filter(None, (meaning(error) for meaning in _meanings)), None)


MOST_VIOLATIONS = 100
"""What is told of a request in which more is wrong: a small request can be wrong in millions of
places, and its refusal must not be larger than itself."""


class InvalidRequest(InvalidArgument):
    """Invalid request parameters"""

    broken: tuple[Violation, ...] = ()

    @property
    def facts(self) -> dict[str, str]:
        return {}

    @property
    def violations(self) -> tuple[Violation, ...]:
        return self.broken[:MOST_VIOLATIONS]


def invalid(path: str, message: str) -> InvalidRequest:
    """The error for one field."""
    return InvalidRequest(broken=(Violation(path, message),))


@dataclass(frozen=True)
class Failure:
    """A failure as it came over the wire, or as it would go over it."""

    status: grpc.StatusCode
    reason: str
    message: str
    facts: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    retry_after: timedelta | None = None


_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def failure_of(error: AppError | grpc.aio.AioRpcError | Status) -> Failure:
    """What any failure says, whether raised here, by an RPC, or carried in an answer."""
    if isinstance(error, AppError):
        return Failure(
            error.status, error.reason, str(error), error.facts, error.violations, error.retry_after
        )
    if isinstance(error, Status):
        return _read(error.SerializeToString())
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return _read(value)
    waits = timedelta(seconds=1) if error.code() is grpc.StatusCode.UNAVAILABLE else None
    return Failure(error.code(), error.code().name, error.details() or "", retry_after=waits)


def status_of(error: AppError, domain: str) -> Status:
    """The status that tells `error` to other parts; `domain` is the service, as `vlinders.auth`."""
    body = _written(
        error.status,
        error.reason,
        domain,
        str(error),
        tuple(error.facts.items()),
        error.violations[:_MOST_VIOLATIONS],
        error.retry_after,
    )
    return Status.FromString(body)


@lru_cache(_REMEMBERED)
def _written(
    code: grpc.StatusCode,
    reason: str,
    domain: str,
    message: str,
    facts: Iterable[tuple[str, str]],
    violations: Iterable[Violation],
    retry_after: timedelta | None,
) -> bytes:
    status = Status(code=code.value[0], message=_short(message))
    metadata = {name: _short(value) for name, value in facts}
    status.details.add().Pack(ErrorInfo(reason=reason, domain=domain, metadata=metadata))
    if violations:
        rows = [
            BadRequest.FieldViolation(
                field=_short(it.field), description=_short(it.message), reason=_short(it.rule)
            )
            for it in violations
        ]
        status.details.add().Pack(BadRequest(field_violations=rows))
    if retry_after is not None:
        retry = RetryInfo()
        retry.retry_delay.FromTimedelta(retry_after)
        status.details.add().Pack(retry)
    body: bytes = status.SerializeToString()
    return body


@lru_cache(_REMEMBERED)
def _read(body: bytes) -> Failure:
    status, info, bad, retry = Status.FromString(body), ErrorInfo(), BadRequest(), RetryInfo()
    waits = None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        if detail.Unpack(retry):
            waits = retry.retry_delay.ToTimedelta()
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    broken = tuple(
        Violation(row.field, row.description, row.reason) for row in bad.field_violations
    )
    reason = info.reason or code.name
    return Failure(code, reason, status.message, dict(info.metadata), broken, waits)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
