"""Broadcasts: one listener's failure is its own."""

from collections.abc import Callable

from vlinders_kit import logs

Callback = Callable[[str, bytes], None]
"""Gets the type and the body of an event."""

log = logs.get(__name__)


def tell(callback: Callback, type: str, body: bytes) -> None:
    """Calls it; what it raises is logged, so that the next event comes all the same."""
    try:
        callback(type, body)
    except Exception as error:  # as said
        log.error("broadcast_callback_failed", type=type, exc_info=error)
