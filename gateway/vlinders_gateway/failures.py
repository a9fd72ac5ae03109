"""What a client is told when something fails: gRPC status → HTTP, and where HTTP has a finer word.

| reason                                             | HTTP | again?                         |
| -------------------------------------------------- | ---- | ------------------------------ |
| any INVALID_ARGUMENT, UPSTREAM_REFUSED too         | 400  | no                             |
| any UNAUTHENTICATED                                | 401  | with another credential        |
| INSUFFICIENT_CREDIT                                | 402  | when there is money            |
| any PERMISSION_DENIED                              | 403  | no                             |
| any NOT_FOUND, MODEL_NOT_FOUND and unknown routes  | 404  | no                             |
| METHOD_NOT_ALLOWED                                 | 405  | no                             |
| REQUEST_TIMEOUT                                    | 408  | yes                            |
| any ALREADY_EXISTS, ABORTED, FAILED_PRECONDITION   | 409  | no (MODEL_NOT_PRICED: neither) |
| BODY_TOO_LARGE                                     | 413  | no                             |
| CONTENT_ENCODED                                    | 415  | without the encoding           |
| RATE_LIMITED, TOO_MANY_ATTEMPTS, RESOURCE_EXHAUSTED| 429  | after Retry-After              |
| HEADERS_TOO_LARGE                                  | 431  | no                             |
| UPSTREAM_FAILED                                    | 502  | perhaps                        |
| any UNAVAILABLE: NO_CAPACITY, CREDIT_UNAVAILABLE, …| 503  | after Retry-After              |
| TOO_MANY_REQUESTS_IN_FLIGHT (a replica's bound)    | 503  | after Retry-After              |
| any DEADLINE_EXCEEDED                              | 504  | perhaps                        |
| CALLER_NOT_TRUSTED (a service did not believe us)  | 500  | no                             |
| any other                                          | 500  | no; it is a bug, and is logged |
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from vlinders_kit.errors import AppError, Failure, Violation, failure_of

HTTP: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 503,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""HTTP status of a gRPC status. Any other is a 500."""

BY_REASON: Mapping[str, int] = {
    "CALLER_NOT_TRUSTED": 500,
    "INSUFFICIENT_CREDIT": 402,
    "METHOD_NOT_ALLOWED": 405,
    "REQUEST_TIMEOUT": 408,
    "BODY_TOO_LARGE": 413,
    "CONTENT_ENCODED": 415,
    "HEADERS_TOO_LARGE": 431,
    "TOO_MANY_REQUESTS_IN_FLIGHT": 503,
    "UPSTREAM_FAILED": 502,
}
"""Where HTTP has a finer word than gRPC."""

_OURS = "Something went wrong on our side."
_TOLD_AS_IT_IS = frozenset((502, 503, 504))


@dataclass(frozen=True)
class Refusal:
    """A failure as HTTP has it; a dialect makes its answer of this."""

    http: int
    reason: str
    message: str
    violations: tuple[Violation, ...]
    """Paths of fields are the contract's; the dialect spells them."""

    facts: Mapping[str, str]
    retry_after: int | None
    """Whole seconds, at least 1."""

    allow: str = ""
    """The verbs that would do, for a 405."""


def refusal_of(error: AppError | grpc.aio.AioRpcError | Failure) -> Refusal:
    """What any failure is at the edge: raised here, raised by an RPC, or come over the pipe."""
    failure = error if isinstance(error, Failure) else failure_of(error)
    http = BY_REASON.get(failure.reason) or HTTP.get(failure.status, 500)
    ours = http >= 500 and (http not in _TOLD_AS_IT_IS or failure.reason == failure.status.name)
    return Refusal(
        http=http,
        reason=failure.reason,
        message=_words(http) if ours else failure.message or _words(http),
        violations=failure.violations,
        facts=failure.facts,
        retry_after=_seconds(failure, http),
        allow=failure.facts.get("allowed", "") if http == 405 else "",
    )


def _words(http: int) -> str:
    """For a failure that comes without words for clients: a channel's own texts name our hosts."""
    return {
        503: "The service is not available at the moment.",
        504: "It took too long.",
    }.get(http, _OURS)


def _seconds(failure: Failure, http: int) -> int | None:
    if failure.retry_after is not None:
        return max(1, math.ceil(failure.retry_after.total_seconds()))
    return {402: 60, 429: 1, 503: 1}.get(http)
