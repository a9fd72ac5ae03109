"""Settlement: what requests owe, posted from the leases they were admitted from.

The rule, request by request: what its lease still holds pays. If the lease is open and holds less,
the platform bears the rest. If the lease is over, or none of ours, the usage is late: what is
available in the tenant's wallet pays, and the platform bears the rest. So no wallet is ever
overdrawn, and nobody else's hold is touched. What the platform bears goes from `loss` to revenue.

All charges of one wallet in one batch are one transfer, since every transfer wants the account of
the platform's revenue.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text

from vlinders.billing.v1.events_pb2 import WalletEmptied
from vlinders_billing import leases, ledger, wallets
from vlinders_billing.charges import Charge, Flag
from vlinders_billing.ledger import LOSS, REVENUE, Movement, wallet_of
from vlinders_billing.wallets import Grants
from vlinders_kit.db import Tx
from vlinders_kit.events import publish

_USE = text("""
    UPDATE lease SET
        open_nanos = lease.open_nanos - use.nanos,
        used_nanos = lease.used_nanos + use.nanos,
        over_at = CASE WHEN lease.closed AND lease.open_nanos = use.nanos THEN now() END
    FROM unnest(CAST(:ids AS text[]), CAST(:amounts AS bigint[])) AS use(id, nanos)
    WHERE lease.id = use.id AND lease.over_at IS NULL AND lease.open_nanos >= use.nanos
""")


async def settle(tx: Tx, charges: Sequence[Charge], grants: Grants) -> None:
    """Posts what is due, and writes into each charge who paid it."""
    owing = [charge for charge in charges if charge.due_nanos]
    if not owing:
        return
    accounts = await _lock_wallets(tx, {charge.event.tenant_id for charge in owing}, grants)
    found = await leases.lock(tx, {charge.event.lease_id for charge in owing})
    open_leases = {id: _Open(row) for id, row in found.items() if row.over_at is None}
    books = {tenant: _Book(tenant, account) for tenant, account in accounts.items()}
    for charge in owing:
        book = books[charge.event.tenant_id]
        lease = open_leases.get(charge.event.lease_id)
        book.add(charge, lease if lease and lease.account_id == book.account_id else None)
    await _use(tx, open_leases)
    balances = await ledger.post(tx, [move for book in books.values() for move in book.movements()])
    emptied = [
        WalletEmptied(tenant_id=tenant)
        for tenant, book in books.items()
        if balances.get(book.account_id) == 0
    ]
    await publish(tx, *emptied)


class _Open:
    """A lease that still holds money, and how much of it this batch uses."""

    def __init__(self, row: Row[Any]) -> None:
        self.account_id: str = row.account_id
        self.left: int = row.open_nanos
        self.used = 0

    def use(self, nanos: int) -> int:
        """Pays as much of `nanos` as is left."""
        paid = min(nanos, self.left)
        self.left -= paid
        self.used += paid
        return paid


class _Book:
    """What one wallet pays in this batch."""

    def __init__(self, tenant_id: str, account: ledger.Locked) -> None:
        self.tenant_id = tenant_id
        self.account_id = account.id
        self._available = account.available_nanos
        self._first = ""
        self._charged = self._released = self._lost = 0

    def add(self, charge: Charge, lease: _Open | None) -> None:
        """Has the lease, or else what is available, pay; `lease` is None for late usage."""
        self._first = self._first or charge.event.request_id
        if lease is not None:
            paid = lease.use(charge.due_nanos)
            self._released += paid
            if paid < charge.due_nanos:
                charge.flags |= Flag.OVER_HOLD
        else:
            paid = min(charge.due_nanos, self._available)
            self._available -= paid
            charge.flags |= Flag.LATE
        charge.charged_nanos = paid
        charge.lost_nanos = charge.due_nanos - paid
        charge.transfer_id = f"usage:{self._first}" if paid else ""
        self._charged += paid
        self._lost += charge.lost_nanos

    def movements(self) -> list[Movement]:
        """Named for the wallet's first request of the batch: a request is in one batch alone."""
        moves = []
        if self._charged:
            id = f"usage:{self._first}"
            moves.append(
                Movement(id, "usage", self.account_id, REVENUE, self._charged, self._released)
            )
        if self._lost:
            moves.append(Movement(f"loss:{self._first}", "loss", LOSS, REVENUE, self._lost))
        return moves


async def _lock_wallets(tx: Tx, tenant_ids: set[str], grants: Grants) -> dict[str, ledger.Locked]:
    found = await ledger.lock(tx, map(wallet_of, tenant_ids))
    if missing := [tenant for tenant in tenant_ids if wallet_of(tenant) not in found]:
        await wallets.open(tx, missing, grants)
        found |= await ledger.lock(tx, map(wallet_of, missing))
    return {tenant: found[wallet_of(tenant)] for tenant in tenant_ids}


async def _use(tx: Tx, open_leases: dict[str, _Open]) -> None:
    used = {id: lease.used for id, lease in open_leases.items() if lease.used}
    values = {"ids": list(used), "amounts": list(used.values())}
    if used and await ledger.affected(tx, _USE, values) != len(used):
        raise ArithmeticError("a lease changed that is locked")
