"""Partitions: the months that usage records are kept in."""

from collections.abc import Iterable
from datetime import UTC, date, datetime

from sqlalchemy import text

from vlinders_kit.db import Tx

_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('vlinders.billing.partitions'))")
# From pg_class, as the statement's snapshot has it: to_regclass may answer from before the lock.
_MISSING = text("""
    SELECT month FROM unnest(CAST(:months AS date[])) AS month
    WHERE NOT EXISTS (
        SELECT FROM pg_class
        WHERE relispartition AND relname = 'usage_record_' || to_char(month, 'YYYY_MM')
    )
    ORDER BY month
""")


def month_of(moment: datetime) -> date:
    """The first day of its month, UTC."""
    return moment.astimezone(UTC).date().replace(day=1)


def next_month(month: date) -> date:
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


async def ensure(tx: Tx, months: Iterable[date]) -> None:
    """Makes the partitions of these months that do not exist; cheap where all do."""
    wanted = {"months": sorted(set(months))}
    if (await tx.scalars(_MISSING, wanted)).first() is None:
        return
    await tx.execute(_LOCK)
    for month in await tx.scalars(_MISSING, wanted):
        name = f"usage_record_{month:%Y_%m}"
        # Attached, because that lets others write meanwhile; PARTITION OF would wait for them all.
        await tx.execute(text(f"CREATE TABLE {name} (LIKE usage_record INCLUDING ALL)"))
        await tx.execute(
            text(
                f"ALTER TABLE usage_record ATTACH PARTITION {name}"
                f" FOR VALUES FROM ('{month}') TO ('{next_month(month)}')"
            )
        )
