"""Logs: one JSON object a line, with the trace's id and without secrets."""

import logging
import re
import sys
from typing import Any

import structlog

from vlinders_kit import telemetry

_SECRET_NAMES = re.compile(
    r"(?i)(password|passwd|secret|authorization|cookie|credential|signature|private|dsn"
    r"|database_url|api_?key$|(^|_)token$|ticket)"
)
_SECRET_TEXTS = re.compile(
    r"vlinders_(?:sk_live|rt)_[\w-]+|(?i:bearer\s+)\S+|eyJ[\w-]+\.[\w-]+\.[\w-]*|\bsk-[\w-]{8,}"
    r"|(?<=://)[^/\s@]*:[^/\s@]*(?=@)|(?i:\b(?:api[_-]?key|key|token|password|secret)=)[^&\s]+"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LONGEST = 2_000
"""Characters of one value; what is longer is cut, so that no request can write a book."""


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
    return {name: _clean(name, value) for name, value in event.items()}


def _clean(name: str, value: Any) -> Any:
    if _SECRET_NAMES.search(name) and value is not None:
        return "[redacted]"
    if isinstance(value, str):
        text = _CONTROL.sub("?", _SECRET_TEXTS.sub("[redacted]", value))
        return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    if isinstance(value, dict):
        return {key: _clean(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(name, inner) for inner in value[:100]]
    return value if isinstance(value, int | float | bool | None) else _clean(name, str(value))


def _add(service: str) -> Any:
    def add(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        event["service"] = service
        if (trace := telemetry.trace_id()) is not None:
            event["trace_id"] = trace
        return event

    return add
