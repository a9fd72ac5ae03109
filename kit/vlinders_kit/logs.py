"""Logs: one JSON object a line, with the trace's id and without secrets."""

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import structlog
from google.protobuf.message import Message

from vlinders_kit import tracing

_SECRET_NAMES = re.compile(
    r"(?i)(password|passwd|secret|authorization|cookie|credential|signature|private|dsn"
    r"|database_url|api[_-]?key$|token$|ticket)"
)
_SECRET_TEXTS = re.compile(
    # Keys by their form: ours, those of providers, JWTs.
    r"vlinders_(?:sk_live|rt|lt)_[\w-]+|\bsk-[\w-]{8,}|eyJ[\w-]+\.[\w-]+\.[\w-]*"
    # What follows a scheme of HTTP, and `user:password` in a URL up to its last @.
    r"|(?i:\bbearer\s+)\S+|(?i:\bbasic\s+)[\w+/=-]{8,}|(?<=://)[^/\s]*:[^/\s]*(?=@)"
    # `token=…` of a URL or a DSN, and `"token": "…"` of JSON or a dict.
    r"|(?i:(?:key|token|password|passwd|secret|signature)=)[^&\s'\"]+"
    r"|(?i:(?:key|token|password|passwd|secret|authorization)['\"]\s*:\s*b?['\"])[^'\"]*"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LONGEST = 2_000
"""Characters of one value; the middle of what is longer is cut, so that no request can write a
book. An exception says at its end what it is."""

_STRUCTLOGS_OWN = ("_record", "_from_structlog")
_DEEPEST = 5
_MOST = 100
_SELDOM_SECONDS = 30.0


def get(name: str) -> Any:
    """The logger of a module: `log.info("charged", account_id=…)`."""
    return structlog.get_logger(name)


def configure(service: str, *, level: str = "INFO") -> None:
    """Sends this process's logs, the libraries' too, to standard error as JSON lines."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add(service),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Seldom())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.getLevelName(level), logging.WARNING))


def redact(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Takes secrets out of an event, by the name of the field and by the look of the text."""
    return {
        name: value if name in _STRUCTLOGS_OWN else _clean(name, value)
        for name, value in event.items()
    }


class _Seldom(logging.Filter):
    """Lets a line of a library's code speak once in a while: some do at each try, for an outage."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        place, now = (record.pathname, record.lineno), self._clock()
        if now - self._said.get(place, -_SELDOM_SECONDS) < _SELDOM_SECONDS:
            return False
        self._said[place] = now
        return True


def _clean(name: str, value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return "[redacted]" if value is not None and _SECRET_NAMES.search(name) else value
    if _SECRET_NAMES.search(name):
        return "[redacted]"
    if isinstance(value, Message):  # nobody knows what a client has put in
        return f"[{value.DESCRIPTOR.full_name}]"
    if depth == _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        pairs = islice(value.items(), _MOST)
        return {_text(str(key)): _clean(str(key), inner, depth + 1) for key, inner in pairs}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(name, inner, depth + 1) for inner in islice(value, _MOST)]
    if isinstance(value, bytes | bytearray):
        return _text(value.decode(errors="replace"))
    return _text(str(value))


def _text(text: str) -> str:
    if len(text) > 10 * _LONGEST:  # the patterns' time, too, is bounded
        text = text[: 5 * _LONGEST] + text[-5 * _LONGEST :]
    text = _CONTROL.sub("?", _SECRET_TEXTS.sub("[redacted]", text))
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 4]} … {text[-_LONGEST * 3 // 4 :]}"


def _add(service: str) -> Any:
    def add(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        event["service"] = service
        if (trace := tracing.trace_id()) is not None:
            event["trace_id"] = trace
        return event

    return add
