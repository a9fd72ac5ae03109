"""Settling as traces show it: below the request itself, though it is done for many at once."""

from collections.abc import Sequence

from opentelemetry.trace import SpanKind

from vlinders_billing.charges import Charge, Flag
from vlinders_kit import tracing


def settled(charges: Sequence[Charge]) -> None:
    """Tells where in the books each of the requests is whose trace is kept."""
    for charge in charges:
        event = charge.event
        with tracing.received(event.traceparent, "settle", SpanKind.CONSUMER) as span:
            span.tell(
                {
                    "messaging.operation.name": "settle",
                    "vlinders.charged_nanos": charge.charged_nanos,
                    "vlinders.flags": [str(flag.name) for flag in Flag if charge.flags & flag],
                    "vlinders.lease_id": event.lease_id,
                    "vlinders.lost_nanos": charge.lost_nanos,
                    "vlinders.request_id": event.request_id,
                    "vlinders.transfer_id": charge.transfer_id,
                }
            )
