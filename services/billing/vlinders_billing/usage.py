"""Usage: each request once, charged, kept line by line and summed by hour and by day."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import psycopg
from sqlalchemy import Select, func, select, text

from vlinders.inference.v1.events_pb2 import UsageRecorded
from vlinders_billing import (
    ledger,
    measures,
    partitions,
    price_versions,
    settlement,
    spans,
)
from vlinders_billing.charges import Charge, Flag, due
from vlinders_billing.models import UsageDay, UsageRecord
from vlinders_billing.wallets import Grants
from vlinders_kit import logs, trace_ids
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
KEPT = timedelta(days=31)
"""How long it is remembered that a request was settled: much longer than it can be told again."""

FORGET_BATCH = 5_000

_FORGET = text("""
    DELETE FROM settled_request WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM settled_request WHERE at < now() - CAST(:kept AS interval)
        ORDER BY at LIMIT :batch FOR UPDATE SKIP LOCKED
    ))
""")
_COLUMNS = {
    "request_id": "text",
    "finished_at": "timestamptz",
    "tenant_id": "text",
    "account_id": "text",
    "api_key_id": "text",
    "model": "text",
    "served_by": "text",
    "operation": "text",
    "stream": "bool",
    "outcome": "text",
    "input_tokens": "int8",
    "cached_input_tokens": "int8",
    "output_tokens": "int8",
    "estimated": "bool",
    "price_version": "text",
    "lease_id": "text",
    "ceiling_nanos": "int8",
    "reported_nanos": "int8",
    "charged_nanos": "int8",
    "lost_nanos": "int8",
    "transfer_id": "text",
    "flags": "int2",
    "first_token_ms": "int8",
    "total_ms": "int8",
    "trace_id": "text",
}
# In binary: as text, a line takes both ends three times as long.
_COPY = f"COPY usage_record ({', '.join(_COLUMNS)}) FROM STDIN (FORMAT BINARY)"
_TYPES = list(_COLUMNS.values())
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
    days = {row.finished_at.date(): row.finished_at for row in wanted.values()}
    await partitions.ensure(tx, map(partitions.month_of, days.values()))
    new = set(await tx.scalars(_CLAIM, {"ids": list(wanted)}))
    charges = [charge for id, charge in wanted.items() if id in new]
    if charges:
        await settlement.settle(tx, charges, grants)
        await _keep(tx, charges)
        await _add_up(tx, charges)
        _tell(charges)
        once_committed(tx, partial(measures.settled, charges))
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
        named = UsageRecord.request_id == trace_ids.request_of(trace_id)
        kept = (UsageRecord.trace_id == trace_id) & (UsageRecord.trace_id != "")
        records = records.where(named | kept)
    return records


def totals(tenant_ids: Collection[str]) -> Select[Any]:
    """What each of these tenants has used in all: of the sums by day, which are few."""
    tokens = UsageDay.input_tokens + UsageDay.cached_input_tokens + UsageDay.output_tokens
    return (
        select(
            UsageDay.tenant_id,
            func.sum(UsageDay.requests).label("requests"),
            func.sum(tokens).label("tokens"),
            func.sum(UsageDay.charged_nanos).label("charged_nanos"),
        )
        .where(UsageDay.tenant_id.in_(tenant_ids))
        .group_by(UsageDay.tenant_id)
    )


async def forget(tx: Tx) -> bool:
    """Forgets requests that were settled KEPT ago; says whether there may be more of them."""
    values = {"kept": KEPT, "batch": FORGET_BATCH}
    return await ledger.affected(tx, _FORGET, values) == FORGET_BATCH


async def _keep(tx: Tx, charges: Iterable[Charge]) -> None:
    """Writes the lines by COPY, which costs a quarter of what an INSERT does."""
    connection = (await (await tx.connection()).get_raw_connection()).driver_connection
    assert isinstance(connection, psycopg.AsyncConnection)
    async with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_TYPES)
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
        trace_ids.id_in(event.traceparent) if event.traceparent else "",
    )


async def _add_up(tx: Tx, charges: Iterable[Charge]) -> None:
    hours: dict[tuple[str, datetime, str], list[int]] = {}
    days: dict[tuple[str, datetime, str], list[int]] = {}
    for charge in charges:
        event, tokens = charge.event, charge.tokens
        hour = charge.finished_at.replace(minute=0, second=0, microsecond=0)
        key = event.tenant_id, hour, event.model
        sums = hours.get(key)
        if sums is None:
            sums = hours[key] = [0] * len(_SUMS)
        sums[0] += 1
        sums[1] += event.outcome == UsageRecorded.OUTCOME_FAILED
        sums[2] += charge.flags != 0
        sums[3] += tokens.input
        sums[4] += tokens.cached_input
        sums[5] += tokens.output
        sums[6] += charge.charged_nanos
        sums[7] += charge.total_ms
    for (tenant_id, hour, model), sums in hours.items():
        key = tenant_id, hour.replace(hour=0), model
        before = days.get(key, [0] * len(_SUMS))
        days[key] = [a + b for a, b in zip(before, sums, strict=True)]
    await tx.execute(_ADD_UP_HOURS, _columns(hours))
    await tx.execute(_ADD_UP_DAYS, _columns(days))


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
