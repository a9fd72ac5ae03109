"""Credit leases: money of a wallet that a replica may admit requests from.

A lease is a pending transfer from the wallet to revenue: what is open of it is held in the wallet.
Usage posts a part of it (`settlement.py`), the holder gives parts back, and what is left when it
has expired, and its grace for late usage is over, goes back as well. Whether a lease has expired is
judged by the database's clock alone.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, text

from vlinders_billing import ledger, recalls
from vlinders_billing.errors import LeaseConflict, LeaseOver, ReturnConflict
from vlinders_billing.ledger import Locked, tenant_of, wallet_of
from vlinders_kit import logs
from vlinders_kit.db import Tx

SWEEP_BATCH = 500
"""Leases that end in one transaction, at most."""

KEPT = timedelta(days=7)
"""How long a lease that is over, and the returns to it, can still be asked for again."""

_FIND = text("SELECT * FROM lease WHERE id = :id")
_MAKE = text("""
    INSERT INTO lease (id, account_id, holder, least_nanos, wanted_nanos, granted_nanos,
        open_nanos, expires_at)
    VALUES (:id, :account, :holder, :least, :wanted, :granted, :granted, now() + :lifetime)
    ON CONFLICT (id) DO NOTHING
""")
# Of a lease that is closed, what is open is usage on its way.
_ELSEWHERE = text("""
    SELECT sum(open_nanos) FROM lease
    WHERE account_id = :account AND over_at IS NULL AND holder <> :holder AND NOT closed
        AND id <> ALL(CAST(:busy AS text[]))
""")
_HELD_BY = text("SELECT id FROM lease WHERE id = ANY(:ids) AND holder = :holder")
_RENEW = text("""
    WITH mine AS (
        SELECT id FROM lease
        WHERE id = ANY(:ids) AND holder = :holder AND over_at IS NULL AND NOT closed
        ORDER BY id FOR NO KEY UPDATE
    )
    UPDATE lease SET expires_at = now() + :lifetime FROM mine WHERE lease.id = mine.id
    RETURNING lease.id
""")
_WALLETS = text("SELECT DISTINCT account_id FROM lease WHERE id = ANY(:ids)")
_LOCK = text("""
    SELECT * FROM lease WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE
""")
_NOTE_RETURNS = text("""
    INSERT INTO lease_return (id, lease_id, nanos, closes)
    SELECT * FROM unnest(
        CAST(:ids AS text[]), CAST(:leases AS text[]),
        CAST(:amounts AS bigint[]), CAST(:closes AS boolean[])
    ) AS new(id) ORDER BY id
    ON CONFLICT (id) DO NOTHING RETURNING id
""")
_FIND_RETURNS = text("SELECT id, lease_id, nanos, closes FROM lease_return WHERE id = ANY(:ids)")
_GIVE_BACK = text("""
    UPDATE lease SET
        open_nanos = lease.open_nanos - back.nanos,
        returned_nanos = lease.returned_nanos + back.nanos,
        closed = lease.closed OR back.closes,
        over_at = CASE
            WHEN (lease.closed OR back.closes) AND lease.open_nanos = back.nanos THEN now()
        END
    FROM unnest(CAST(:ids AS text[]), CAST(:amounts AS bigint[]), CAST(:closes AS boolean[]))
        AS back(id, nanos, closes)
    WHERE lease.id = back.id AND lease.over_at IS NULL AND lease.open_nanos >= back.nanos
""")
_EXPIRED = text("""
    SELECT id FROM lease WHERE over_at IS NULL AND expires_at + :grace < now()
    ORDER BY expires_at LIMIT :batch
""")
# Asked again under the lock: a renewal or its last usage may have come first.
_LOCK_EXPIRED = text("""
    SELECT id, account_id, open_nanos FROM lease
    WHERE id = ANY(:ids) AND over_at IS NULL AND expires_at + :grace < now()
    ORDER BY id FOR NO KEY UPDATE
""")
_END = text("""
    UPDATE lease SET returned_nanos = returned_nanos + open_nanos, open_nanos = 0, over_at = now()
    WHERE id = ANY(:ids) AND over_at IS NULL
""")
_FORGET = text("""
    DELETE FROM lease WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM lease WHERE over_at < now() - :kept LIMIT :batch FOR UPDATE SKIP LOCKED
    ))
""")

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a holder asks for."""

    lease_id: str
    tenant_id: str
    holder: str
    least_nanos: int
    wanted_nanos: int


@dataclass(frozen=True, slots=True)
class Short:
    """Less than the least is available, and so much is lent to others and may come back."""

    available_nanos: int
    elsewhere_nanos: int


@dataclass(frozen=True, slots=True)
class Return:
    """What a holder gives back, known by its id."""

    id: str
    lease_id: str
    nanos: int
    closes: bool


async def acquire(
    tx: Tx, ask: Ask, wallet: Locked, lifetime: timedelta, *, busy: Collection[str] = ()
) -> int | Short:
    """Lends from the wallet, once for each `lease_id`: the nanos granted, or what is short.

    Of `busy` leases nothing is expected back. Asking again renews the lease. Raises LeaseConflict
    when the id stands for another lease, and LeaseOver when nothing may be admitted from it any
    more.
    """
    if (made := (await tx.execute(_FIND, {"id": ask.lease_id})).one_or_none()) is not None:
        return await _again(tx, ask, made, lifetime)
    granted = min(max(ask.wanted_nanos, ask.least_nanos), wallet.available_nanos)
    if granted < ask.least_nanos:
        # What its own requests hold, a holder knows best: it has asked for more all the same.
        values = {"account": wallet.id, "holder": ask.holder, "busy": list(busy)}
        others = await tx.scalar(_ELSEWHERE, values)
        return Short(wallet.available_nanos, int(others or 0))
    await ledger.hold(tx, wallet.id, granted)
    made_as = {
        "id": ask.lease_id,
        "account": wallet.id,
        "holder": ask.holder,
        "least": ask.least_nanos,
        "wanted": ask.wanted_nanos,
        "granted": granted,
        "lifetime": lifetime,
    }
    if await ledger.affected(tx, _MAKE, made_as) != 1:
        raise LeaseConflict(lease_id=ask.lease_id)
    return granted


async def renew(
    tx: Tx, holder: str, lease_ids: Sequence[str], lifetime: timedelta
) -> Sequence[str]:
    """Prolongs the holder's leases to `lifetime` from now; answers those that are over.

    One that has expired and still has its money is prolonged like any other.
    """
    values = {"ids": list(lease_ids), "holder": holder, "lifetime": lifetime}
    alive = set(await tx.scalars(_RENEW, values))
    return [id for id in lease_ids if id not in alive]


async def held_by(tx: Tx, holder: str, lease_ids: Iterable[str]) -> set[str]:
    """Those of the leases that are the holder's own: of others' it has nothing to say."""
    return set(await tx.scalars(_HELD_BY, {"ids": list(set(lease_ids)), "holder": holder}))


async def give_back(tx: Tx, holder: str, returns: Sequence[Return]) -> None:
    """Makes what is returned available again, once for each return, and closes what is to close.

    Of a lease that is over, or another's, nothing comes back: its money has gone back already.
    Raises ReturnConflict for an id that stands for another return.
    """
    ids = {row.lease_id for row in returns}
    await _lock_wallets(tx, ids)
    leases = await lock(tx, ids)
    backs: dict[str, _Back] = {}
    for row in await _note(tx, [row for row in returns if row.lease_id in leases]):
        lease = leases[row.lease_id]
        if lease.holder == holder and lease.over_at is None:
            back = backs.setdefault(row.lease_id, _Back(lease.account_id, lease.open_nanos))
            back.add(row)
    values = {
        "ids": list(backs),
        "amounts": [back.nanos for back in backs.values()],
        "closes": [back.closes for back in backs.values()],
    }
    if backs and await ledger.affected(tx, _GIVE_BACK, values) != len(backs):
        raise ArithmeticError("a lease changed that is locked")
    await _release(tx, [(back.account_id, back.nanos) for back in backs.values()])


async def sweep(tx: Tx, grace: timedelta) -> bool:
    """Ends leases that expired longer than `grace` ago; says whether there may be more of them."""
    ids = list(await tx.scalars(_EXPIRED, {"grace": grace, "batch": SWEEP_BATCH}))
    if not ids:
        return False
    await _lock_wallets(tx, ids)
    expired = (await tx.execute(_LOCK_EXPIRED, {"grace": grace, "ids": ids})).all()
    ended = await ledger.affected(tx, _END, {"ids": [lease.id for lease in expired]})
    if ended != len(expired):
        raise ArithmeticError("a lease changed that is locked")
    await _release(tx, [(lease.account_id, lease.open_nanos) for lease in expired])
    log.info("leases_expired", leases=ended, nanos=sum(lease.open_nanos for lease in expired))
    return len(ids) == SWEEP_BATCH


async def forget(tx: Tx) -> bool:
    """Deletes leases that have been over for KEPT; says whether there may be more of them."""
    values = {"kept": KEPT, "batch": SWEEP_BATCH}
    return await ledger.affected(tx, _FORGET, values) == SWEEP_BATCH


async def lock(tx: Tx, lease_ids: Iterable[str]) -> dict[str, Row[Any]]:
    """Those of the leases that exist, held until the transaction ends."""
    rows = await tx.execute(_LOCK, {"ids": list(lease_ids)})
    return {row.id: row for row in rows}


@dataclass(slots=True)
class _Back:
    """What comes back of one lease: never more than is open of it."""

    account_id: str
    open_nanos: int
    nanos: int = 0
    closes: bool = False

    def add(self, row: Return) -> None:
        if row.nanos > self.open_nanos - self.nanos:
            log.warning("returned_more_than_open", lease_id=row.lease_id, nanos=row.nanos)
        self.nanos = min(self.nanos + row.nanos, self.open_nanos)
        self.closes |= row.closes


async def _again(tx: Tx, ask: Ask, made: Row[Any], lifetime: timedelta) -> int:
    asked = wallet_of(ask.tenant_id), ask.holder, ask.least_nanos, ask.wanted_nanos
    if asked != (made.account_id, made.holder, made.least_nanos, made.wanted_nanos):
        raise LeaseConflict(lease_id=ask.lease_id)
    if await renew(tx, ask.holder, [ask.lease_id], lifetime):
        raise LeaseOver(lease_id=ask.lease_id)
    granted: int = made.granted_nanos
    return granted


async def _lock_wallets(tx: Tx, lease_ids: Iterable[str]) -> None:
    await ledger.lock(tx, await tx.scalars(_WALLETS, {"ids": list(lease_ids)}))


async def _note(tx: Tx, returns: Sequence[Return]) -> list[Return]:
    """Notes the returns; answers those that were not made before."""
    wanted: dict[str, Return] = {}
    for row in returns:
        if wanted.setdefault(row.id, row) != row:
            raise ReturnConflict(return_id=row.id)
    values = {
        "ids": list(wanted),
        "leases": [row.lease_id for row in wanted.values()],
        "amounts": [row.nanos for row in wanted.values()],
        "closes": [row.closes for row in wanted.values()],
    }
    new = set(await tx.scalars(_NOTE_RETURNS, values))
    for found in await tx.execute(_FIND_RETURNS, {"ids": list(wanted.keys() - new)}):
        if wanted[found.id] != Return(*found):
            raise ReturnConflict(return_id=found.id)
    return [row for id, row in wanted.items() if id in new]


async def _release(tx: Tx, amounts: Iterable[tuple[str, int]]) -> None:
    """Frees the holds of wallets and wakes whoever waits for their money.

    He is woken where nothing came back, too: of a lease that was closed, nothing will.
    """
    freed: defaultdict[str, int] = defaultdict(int)
    for account_id, nanos in amounts:
        freed[account_id] += nanos
    await ledger.release(tx, {account_id: nanos for account_id, nanos in freed.items() if nanos})
    if freed:
        await recalls.tell_back(tx, map(tenant_of, freed))
