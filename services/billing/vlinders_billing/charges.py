"""What a request owes, from what inference reported: recomputed, bounded, and flagged where odd.

What came over the bus is not believed further than it can be checked: the charge is the lowest of
what was reported, what the stored price makes of the tokens, and the ceiling that the request was
admitted with. Numbers that no request can have are cut to what one can have.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntFlag

from vlinders.inference.v1.events_pb2 import UsageRecorded
from vlinders_billing.prices import NANOS, Price, Tokens

MOST_TOKENS = 1_000_000_000
"""Of one bucket of one request."""

MOST_NANOS = 1_000_000 * NANOS
"""What one request may cost."""

MOST_MS = 30 * 86_400_000
"""How long one request may take."""

OLDEST = timedelta(days=366)
"""How long ago a request may have ended."""

AHEAD = timedelta(days=1)
"""How far the clock of whoever reports may be ahead of ours."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Flag(IntFlag):
    """Why a charge is not simply what was reported, or deserves a look."""

    PRICE_DIFFERS = 1
    """The stored price makes another charge of the tokens; the lower one is taken."""
    PRICE_UNKNOWN = 2
    """The version is none of ours: the charge could not be computed again."""
    OVER_CEILING = 4
    """More was reported than the request was admitted with."""
    OVER_HOLD = 8
    """Its lease, though still open, held less: the platform bears the rest."""
    LATE = 16
    """Its lease was over or is none of ours: charged to what was available, the rest is lost."""
    OUT_OF_RANGE = 32
    """A number was not one that a request can have, and was cut."""


@dataclass(slots=True)
class Charge:
    """A request on its way into the books. `charged_nanos` + `lost_nanos` = `due_nanos`."""

    event: UsageRecorded
    tokens: Tokens
    finished_at: datetime
    ceiling_nanos: int
    reported_nanos: int
    due_nanos: int
    first_token_ms: int
    total_ms: int
    flags: int
    """Of `Flag`, added up; a plain number since it is one for each request."""
    charged_nanos: int = 0
    """What the tenant pays."""
    lost_nanos: int = 0
    """What the platform bears."""
    transfer_id: str = ""
    """The transfer that moves `charged_nanos`, with others of the tenant; empty for nothing."""


def due(event: UsageRecorded, price: Price | None, now: datetime) -> Charge:
    """What the request owes; `price` is the stored one of its version, None if there is none."""
    said = Tokens(event.input_tokens, event.cached_input_tokens, event.output_tokens)
    tokens = _counted(said)
    ceiling = _within(event.ceiling_nanos, MOST_NANOS)
    reported = _within(event.charged_nanos, MOST_NANOS)
    finished_at = _moment(event, now)
    flags = 0
    amounts_hold = ceiling == event.ceiling_nanos and reported == event.charged_nanos
    if tokens != said or finished_at is None or not amounts_hold:
        flags |= Flag.OUT_OF_RANGE
    if reported > ceiling:
        flags |= Flag.OVER_CEILING
    owed = min(reported, ceiling)
    if price is None:
        flags |= Flag.PRICE_UNKNOWN
    else:
        computed = price.of(tokens)
        if min(computed, ceiling) != reported and not flags & Flag.OVER_CEILING:
            flags |= Flag.PRICE_DIFFERS
        owed = min(owed, computed)
    return Charge(
        event,
        tokens,
        finished_at or now,
        ceiling_nanos=ceiling,
        reported_nanos=reported,
        due_nanos=owed,
        first_token_ms=_within(event.first_token_ms, MOST_MS),
        total_ms=_within(event.total_ms, MOST_MS),
        flags=flags,
    )


def _within(value: int, most: int) -> int:
    return value if 0 <= value <= most else min(max(value, 0), most)


def _counted(said: Tokens) -> Tokens:
    if min(said) >= 0 and max(said) <= MOST_TOKENS:
        return said
    return Tokens(*(_within(count, MOST_TOKENS) for count in said))


def _moment(event: UsageRecorded, now: datetime) -> datetime | None:
    """When the request ended; None for a moment that cannot be."""
    at = event.finished_at
    if not 0 < at.seconds < 1 << 36 or not 0 <= at.nanos < 1_000_000_000:
        return None
    moment = _EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1000)
    return moment if now - OLDEST < moment < now + AHEAD else None
