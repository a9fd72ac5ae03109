"""Usage: each request once, charged, kept line by line and summed by hour and by day."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import psycopg
from sqlalchemy import Select, select, text

from vlinders.inference.v1.events_pb2 import UsageRecorded
from vlinders_billing import partitions, price_versions, settlement, spans
from vlinders_billing.charges import Charge, Flag, due
from vlinders_billing.models import UsageRecord
from vlinders_billing.wallets import Grants
from vlinders_kit import logs, tracing
from vlinders_kit.db import Tx, once_committed

OUTCOMES = {
    UsageRecorded.OUTCOME_COMPLETED: "completed",
    UsageRecorded.OUTCOME_CANCELLED: "cancelled",
    UsageRecorded.OUTCOME_FAILED: "failed",
}
"""How an outcome is kept and shown; one that is not known here is a failure."""

_CLAIM = text("""
    INSERT INTO settled_request (request_id)
    SELECT id FROM unnest(CAST(:ids AS text[])) AS new(id) ORDER BY id
    ON CONFLICT (request_id) DO NOTHING RETURNING request_id
""")
_COLUMNS = (
    "request_id, finished_at, tenant_id, account_id, api_key_id, model, served_by, operation,"
    " stream, outcome, input_tokens, cached_input_tokens, output_tokens, estimated,"
    " price_version, lease_id, ceiling_nanos, reported_nanos, charged_nanos, lost_nanos,"
    " transfer_id, flags, first_token_ms, total_ms, trace_id"
)
_COPY = f"COPY usage_record ({_COLUMNS}) FROM STDIN"
_ADD_UP = """
    INSERT INTO {table} AS sums (tenant_id, starts_at, model, requests, failed, flagged,
        input_tokens, cached_input_tokens, output_tokens, charged_nanos, total_ms)
    SELECT * FROM unnest(
        CAST(:tenants AS text[]), CAST(:starts AS timestamptz[]), CAST(:models AS text[]),
        CAST(:requests AS bigint[]), CAST(:failed AS bigint[]), CAST(:flagged AS bigint[]),
        CAST(:input AS bigint[]), CAST(:cached_input AS bigint[]), CAST(:output AS bigint[]),
        CAST(:charged AS bigint[]), CAST(:ms AS bigint[])
    )
    ON CONFLICT (tenant_id, starts_at, model) DO UPDATE SET
        requests = sums.requests + excluded.requests,
        failed = sums.failed + excluded.failed,
        flagged = sums.flagged + excluded.flagged,
        input_tokens = sums.input_tokens + excluded.input_tokens,
        cached_input_tokens = sums.cached_input_tokens + excluded.cached_input_tokens,
        output_tokens = sums.output_tokens + excluded.output_tokens,
        charged_nanos = sums.charged_nanos + excluded.charged_nanos,
        total_ms = sums.total_ms + excluded.total_ms
"""
_ADD_UP_HOURS = text(_ADD_UP.format(table="usage_hour"))
_ADD_UP_DAYS = text(_ADD_UP.format(table="usage_day"))
_SUMS = ("requests", "failed", "flagged", "input", "cached_input", "output", "charged", "ms")

log = logs.get(__name__)


async def record(
    tx: Tx, events: Sequence[UsageRecorded], grants: Grants, now: datetime
) -> list[Charge]:
    """Charges what was used, each request once; answers what was charged now.

    Raises ValueError for an event that does not say which request or whose.
    """
    versions = {event.price_version for event in events}
    prices = await price_versions.of_versions(tx, versions)
    wanted: dict[str, Charge] = {}
    for event in events:
        if not event.request_id or not event.tenant_id:
            raise ValueError("usage of no request, or of no tenant")
        if event.request_id not in wanted:
            wanted[event.request_id] = due(event, prices.get(event.price_version), now)
    await partitions.ensure(tx, {partitions.month_of(row.finished_at) for row in wanted.values()})
    new = set(await tx.scalars(_CLAIM, {"ids": list(wanted)}))
    charges = [charge for id, charge in wanted.items() if id in new]
    if charges:
        await settlement.settle(tx, charges, grants)
        await _keep(tx, charges)
        await _add_up(tx, charges)
        _tell(charges)
        if traced := [charge for charge in charges if charge.event.traceparent]:
            once_committed(tx, partial(spans.settled, traced))
    return charges


def of_tenant(
    tenant_id: str, request_id: str | None = None, trace_id: str | None = None
) -> Select[tuple[UsageRecord]]:
    """The tenant's records; of one request, or one trace, where it is named."""
    records = select(UsageRecord).where(UsageRecord.tenant_id == tenant_id)
    if request_id is not None:
        records = records.where(UsageRecord.request_id == request_id)
    if trace_id is not None:
        named = UsageRecord.request_id == tracing.request_of(trace_id)
        kept = (UsageRecord.trace_id == trace_id) & (UsageRecord.trace_id != "")
        records = records.where(named | kept)
    return records


async def _keep(tx: Tx, charges: Iterable[Charge]) -> None:
    """Writes the lines by COPY, which costs a quarter of what an INSERT does."""
    connection = (await (await tx.connection()).get_raw_connection()).driver_connection
    assert isinstance(connection, psycopg.AsyncConnection)
    async with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        for charge in charges:
            await copy.write_row(_line(charge))


def _line(charge: Charge) -> tuple[Any, ...]:
    """The columns of `_COLUMNS`."""
    event, tokens = charge.event, charge.tokens
    return (
        event.request_id,
        charge.finished_at,
        event.tenant_id,
        event.account_id,
        event.api_key_id,
        event.model,
        event.served_by,
        event.operation,
        event.stream,
        OUTCOMES.get(event.outcome, "failed"),
        tokens.input,
        tokens.cached_input,
        tokens.output,
        event.estimated,
        event.price_version,
        event.lease_id,
        charge.ceiling_nanos,
        charge.reported_nanos,
        charge.charged_nanos,
        charge.lost_nanos,
        charge.transfer_id,
        charge.flags,
        charge.first_token_ms,
        charge.total_ms,
        tracing.id_in(event.traceparent) if event.traceparent else "",
    )


async def _add_up(tx: Tx, charges: Iterable[Charge]) -> None:
    hours: dict[tuple[str, datetime, str], list[int]] = {}
    days: dict[tuple[str, datetime, str], list[int]] = {}
    for charge in charges:
        event, tokens = charge.event, charge.tokens
        values = (
            1,
            int(event.outcome == UsageRecorded.OUTCOME_FAILED),
            int(charge.flags != 0),
            tokens.input,
            tokens.cached_input,
            tokens.output,
            charge.charged_nanos,
            charge.total_ms,
        )
        hour = charge.finished_at.replace(minute=0, second=0, microsecond=0)
        _add(hours, (event.tenant_id, hour, event.model), values)
    for (tenant_id, hour, model), sums in hours.items():
        _add(days, (tenant_id, hour.replace(hour=0), model), sums)
    await tx.execute(_ADD_UP_HOURS, _columns(hours))
    await tx.execute(_ADD_UP_DAYS, _columns(days))


def _add(
    rows: dict[tuple[str, datetime, str], list[int]],
    key: tuple[str, datetime, str],
    values: Sequence[int],
) -> None:
    sums = rows.get(key)
    rows[key] = list(values) if sums is None else [a + b for a, b in zip(sums, values, strict=True)]


def _columns(rows: dict[tuple[str, datetime, str], list[int]]) -> dict[str, list[Any]]:
    """Sorted, since two that add to the same rows must lock them in the same order."""
    ordered = sorted(rows)
    keys = dict(
        zip(("tenants", "starts", "models"), map(list, zip(*ordered, strict=True)), strict=True)
    )
    sums = zip(*(rows[key] for key in ordered), strict=True)
    return {**keys, **dict(zip(_SUMS, map(list, sums), strict=True))}


def _tell(charges: Iterable[Charge]) -> None:
    """Logs what is not simply charged as reported: one line a batch and combination of flags."""
    flagged: defaultdict[int, list[Charge]] = defaultdict(list)
    for charge in charges:
        if charge.flags:
            flagged[charge.flags].append(charge)
    for flags, some in flagged.items():
        log.warning(
            "usage_flagged",
            flags=[flag.name for flag in Flag if flags & flag],
            requests=len(some),
            first=some[0].event.request_id,
            lost_nanos=sum(charge.lost_nanos for charge in some),
        )
