"""Engines over HTTP: one attempt at an answer, from the request to its first bytes.

An engine is an own worker's agent or an upstream provider; both speak OpenAI's protocol. A key goes
to the host of its provider's base URL and nowhere else: redirects are failures.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import msgspec
from msgspec import Struct

from vlinders_inference.breakers import Breaker
from vlinders_inference.connections import Target
from vlinders_inference.responses import Disconnected, Response
from vlinders_inference.waits import ClientLeft, TookTooLong, Wait

PATHS = {"CreateChatCompletion": "chat/completions", "CreateEmbeddings": "embeddings"}
"""Operation → path below an engine's base URL."""

REFUSALS = (400, 413, 422)
"""Statuses that are of the client's making: another engine would say the same."""

STOP_SECONDS = 0.5
"""How long an engine that sees nobody wait may go on, before it is cut off."""

_DECLINED = (409, 503)
"""Statuses of an own worker that has begun nothing: the ticket is too old, or it has no room."""

_RESTS = {401: 60.0, 403: 60.0, 429: 5.0}
"""Seconds for which a way is left alone at once: its key is not good, or used too much."""

_LARGEST_REFUSAL = 16 * 1024
"""Bytes of an error that are looked at."""

_KNOWN_CODES = frozenset(
    (
        "array_above_max_length",
        "content_policy_violation",
        "context_length_exceeded",
        "invalid_request_error",
        "invalid_type",
        "invalid_value",
        "missing_required_parameter",
        "string_above_max_length",
        "unknown_parameter",
        "unsupported_parameter",
        "unsupported_value",
    )
)
"""Codes that are told to clients; no other word of an engine's error is."""


class AttemptFailed(Exception):
    """The engine did not begin an answer; another may."""

    def __init__(
        self,
        cause: str,
        *,
        everywhere: bool = False,
        rest: float | None = None,
        declined: bool = False,
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.everywhere = everywhere
        """Whether the provider failed as a whole, not just this key."""
        self.rest = rest
        self.declined = declined
        """Whether an own worker takes nothing now, or had the request too late to begin it."""


class Refused(Exception):
    """The engine does not accept the request itself."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(status)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds."""

    connect: float
    first_byte: float
    idle: float


class Attempt(Struct, eq=False):
    """One engine, asked once."""

    served_by: str
    target: Target
    head: bytes
    """The head of the request, which holds the key or the ticket."""
    name: str
    """What the engine calls the model."""
    limit_field: str | None = None
    breaker: Breaker | None = None
    spoilt: bool = False
    """It failed in a way in which the same provider would fail again."""
    worker_id: str = ""
    """With own workers, which of them."""
    always_stream: bool = False
    """It is asked to stream what clients want whole, too."""
    headers: Mapping[str, str] = {}
    """With own workers, what shows the right to this request, for the cancel too."""
    cancel_path: str = ""
    """Where the engine is told to stop, and goes on to say what it has produced.

    Empty: it is stopped by the end of our half of the connection, and what it had sent counts.
    """

    def __repr__(self) -> str:
        return f"Attempt({self.served_by!r}, {self.name!r}, {self.worker_id!r})"

    def begin(self) -> None:
        """It is made now; one of the next three tells how that went."""
        if self.breaker is not None:
            self.breaker.begin()

    def answered(self) -> None:
        """The engine has said something, be it that it does not accept the request."""
        if self.breaker is not None:
            self.breaker.succeeded()

    def failed(self, failure: AttemptFailed) -> None:
        self.spoilt = failure.everywhere
        if self.breaker is not None:
            self.breaker.failed(time.monotonic(), failure.rest)

    def abandoned(self) -> None:
        """It ended without saying anything of the engine."""
        if self.breaker is not None:
            self.breaker.abandoned()


async def post(attempt: Attempt, body: bytes, wait: Wait, timeouts: Timeouts) -> Response:
    """The answer of status 200 that `attempt` has begun.

    From then on the client's leaving has the engine stop, if it has no `cancel_path` by the end of
    the connection. Raises AttemptFailed, Refused, and ClientLeft as `wait` does.
    """

    def asked(response: Response) -> None:
        if not attempt.cancel_path:
            wait.when_left(response.stop, settle=STOP_SECONDS)

    try:
        with wait.at_most(timeouts.first_byte):
            response = await attempt.target.post(attempt.head, body, asked)
        if response.status != 200:
            try:
                with wait.at_most(timeouts.connect):
                    await _reject(response, own=bool(attempt.worker_id))
            finally:
                response.close()
    except TookTooLong:
        raise AttemptFailed("no answer in time", everywhere=True) from None
    except Disconnected:
        if wait.left:
            raise ClientLeft from None
        raise AttemptFailed("connection failed", everywhere=True) from None
    if response.headers.get(b"content-encoding", b"identity") != b"identity":
        response.close()
        raise AttemptFailed("the answer is compressed")
    return response


async def read(response: Response, wait: Wait, idle: float) -> bytes:
    """The bytes that have come, at least one; empty at the end.

    Raises AttemptFailed when the connection breaks or stands still, and ClientLeft.
    """
    try:
        with wait.at_most(idle):
            return await response.read()
    except TookTooLong:
        raise AttemptFailed("the answer stands still") from None
    except Disconnected:
        if wait.left:
            raise ClientLeft from None
        raise AttemptFailed("connection lost") from None


async def _reject(response: Response, *, own: bool) -> None:
    """Says why a response is no answer; `own`: of a worker, which has words of its own."""
    status = response.status
    if own and status in _DECLINED:
        raise AttemptFailed(f"status {status}", declined=True)
    if status in REFUSALS:
        body = b""
        while not response.ended and len(body) < _LARGEST_REFUSAL:
            body += await response.read()
        raise Refused(status, _code(body + await response.read() if response.ended else body))
    rest = _RESTS.get(status)
    if status in (429, 503):
        rest = _retry_after(response.headers.get(b"retry-after", b"").decode("latin-1")) or rest
    raise AttemptFailed(f"status {status}", everywhere=status >= 500, rest=rest)


class _Error(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error


def _code(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "unspecified"
    for code in (error.code, error.type):
        if code in _KNOWN_CODES:
            return str(code)
    return "unspecified"


def _retry_after(header: str) -> float | None:
    if header.isascii() and header.isdigit():
        return float(header[:6])
    try:
        return parsedate_to_datetime(header).timestamp() - time.time()
    except ValueError:
        return None
