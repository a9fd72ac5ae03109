"""Engines over HTTP: one attempt at an answer, from the request to its first bytes.

An engine is an own worker's agent or an upstream provider; both speak OpenAI's protocol. A key goes
to the host of its provider's base URL and nowhere else: redirects are failures.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp
import msgspec
from yarl import URL

from vlinders_inference.breakers import Breaker
from vlinders_inference.waits import TookTooLong, Wait

PATHS = {"CreateChatCompletion": "chat/completions", "CreateEmbeddings": "embeddings"}
"""Operation → path below an engine's base URL."""

REFUSALS = (400, 413, 422)
"""Statuses that are of the client's making: another engine would say the same."""

KEEPALIVE_SECONDS = 30.0
"""How long a connection that is not used is kept."""

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

    def __init__(self, cause: str, *, everywhere: bool = False, rest: float | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.everywhere = everywhere
        """Whether the provider failed as a whole, not just this key."""
        self.rest = rest


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


@dataclass(slots=True)
class Attempt:
    """One engine, asked once."""

    served_by: str
    session: aiohttp.ClientSession
    url: URL
    headers: Mapping[str, str]
    name: str
    """What the engine calls the model."""
    limit_field: str | None = None
    breaker: Breaker | None = None
    spoilt: bool = False
    """It failed in a way in which the same provider would fail again."""
    worker_id: str = ""
    """With own workers, which of them."""
    cancel_url: str = ""
    """Where the engine is told to stop and goes on to say what it produced; empty: by closing."""


def session(timeouts: Timeouts) -> aiohttp.ClientSession:
    """A session for one target. Other deadlines than that of connecting are a Wait's."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect),
        auto_decompress=False,
        trust_env=False,
        skip_auto_headers=("Accept", "User-Agent"),
    )


async def post(
    attempt: Attempt, body: bytes, wait: Wait, timeouts: Timeouts
) -> aiohttp.ClientResponse:
    """The answer of status 200 that `attempt` has begun.

    Raises AttemptFailed, Refused, and ClientLeft as `wait` does.
    """
    try:
        with wait.at_most(timeouts.first_byte):
            response = await _sent(attempt, body)
        coding = response.headers.get("Content-Encoding", "identity")
        if response.status == 200 and coding == "identity":
            return response
        try:
            with wait.at_most(timeouts.connect):
                await _reject(response)
        finally:
            response.close()
    except TookTooLong:
        raise AttemptFailed("no answer in time", everywhere=True) from None
    except (aiohttp.ClientError, OSError, ValueError):
        raise AttemptFailed("connection failed", everywhere=True) from None
    raise AttemptFailed("answer is compressed")


async def read(response: aiohttp.ClientResponse, wait: Wait, idle: float) -> bytes:
    """The bytes that have come, at least one; empty at the end.

    Raises AttemptFailed when the connection breaks or stands still, and ClientLeft.
    """
    try:
        with wait.at_most(idle):
            return await response.content.readany()
    except TookTooLong:
        raise AttemptFailed("answer stands still") from None
    except (aiohttp.ClientError, OSError, RuntimeError):
        raise AttemptFailed("connection lost") from None


async def _sent(attempt: Attempt, body: bytes) -> aiohttp.ClientResponse:
    for again in (True, False):
        try:
            return await attempt.session.post(
                attempt.url, data=body, headers=attempt.headers, allow_redirects=False
            )
        except aiohttp.ServerDisconnectedError:
            # A connection that was kept may be closed by the engine as it is used: once more.
            if not again:
                raise
    raise AssertionError("sent, or raised")


async def _reject(response: aiohttp.ClientResponse) -> None:
    """Says why a response is no answer; returns for one of status 200."""
    status = response.status
    if status == 200:
        return
    if status in REFUSALS:
        raise Refused(status, _code(await response.content.read(_LARGEST_REFUSAL)))
    rest = _RESTS.get(status)
    if status in (429, 503):
        rest = _retry_after(response.headers.get("Retry-After")) or rest
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


def _retry_after(header: str | None) -> float | None:
    if header is None:
        return None
    if header.isascii() and header.isdigit():
        return float(header[:6])
    try:
        return parsedate_to_datetime(header).timestamp() - time.time()
    except ValueError:
        return None
