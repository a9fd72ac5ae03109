"""The ledger: money moves between accounts, by transfers that are made once and never changed.

Every posting carries the hash of the one before it in its account, so that a row that is changed,
taken out or put in is found (`audit.py`). Locks are taken in one order everywhere: wallets by id,
then leases by id, then the platform's own accounts, which many want, by id.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, text

from vlinders_billing.errors import InsufficientBalance, TransferConflict
from vlinders_kit.db import Tx

REVENUE = "revenue"
"""What tenants have paid for usage."""

PROMOTIONS = "promotions"
"""What the platform has given away; below zero by as much."""

LOSS = "loss"
"""What was used and could not be charged to anybody; below zero by as much."""

_WALLET = "wallet:"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_ADD_TRANSFERS = text("""
    INSERT INTO transfer (id, kind, source_id, target_id, amount_nanos)
    SELECT * FROM unnest(
        CAST(:ids AS text[]), CAST(:kinds AS text[]), CAST(:sources AS text[]),
        CAST(:targets AS text[]), CAST(:amounts AS bigint[])
    ) AS new(id) ORDER BY id
    ON CONFLICT (id) DO NOTHING RETURNING id
""")
_FIND_TRANSFERS = text("""
    SELECT id, kind, source_id, target_id, amount_nanos FROM transfer WHERE id = ANY(:ids)
""")
_LOCK = text("""
    SELECT id, tenant_id, balance_nanos, held_nanos, postings, head, now() AS at
    FROM account WHERE id = ANY(:ids)
    ORDER BY tenant_id IS NULL, id FOR NO KEY UPDATE
""")
# What the lock makes sure is asked again here: a debit that its account cannot bear changes no row.
_MOVE = text("""
    UPDATE account SET
        balance_nanos = account.balance_nanos + move.delta,
        held_nanos = account.held_nanos - move.released,
        postings = account.postings + move.links,
        head = move.head
    FROM unnest(
        CAST(:ids AS text[]), CAST(:deltas AS bigint[]), CAST(:released AS bigint[]),
        CAST(:links AS bigint[]), CAST(:places AS bigint[]), CAST(:heads AS bytea[])
    ) AS move(id, delta, released, links, place, head)
    WHERE account.id = move.id
        AND account.postings = move.place
        AND account.held_nanos >= move.released
        AND (account.tenant_id IS NULL
            OR account.balance_nanos + move.delta >= account.held_nanos - move.released)
""")
_ADD_POSTINGS = text("""
    INSERT INTO posting (account_id, seq, transfer_id, amount_nanos, balance_nanos, hash)
    SELECT * FROM unnest(
        CAST(:accounts AS text[]), CAST(:seqs AS bigint[]), CAST(:transfers AS text[]),
        CAST(:amounts AS bigint[]), CAST(:balances AS bigint[]), CAST(:hashes AS bytea[])
    )
""")
_HOLD = text("""
    UPDATE account SET held_nanos = held_nanos + :nanos
    WHERE id = :id AND balance_nanos - held_nanos >= :nanos
""")
_RELEASE = text("""
    UPDATE account SET held_nanos = account.held_nanos - freed.nanos
    FROM unnest(CAST(:ids AS text[]), CAST(:amounts AS bigint[])) AS freed(id, nanos)
    WHERE account.id = freed.id AND account.held_nanos >= freed.nanos
""")


@dataclass(frozen=True, slots=True)
class Movement:
    """A transfer to be made. `id` is its client's: what has the same id is the same transfer."""

    id: str
    kind: str
    source: str
    target: str
    amount_nanos: int
    released_nanos: int = 0
    """How much of the source's holds ends with it."""

    @property
    def content(self) -> tuple[str, str, str, int]:
        return self.kind, self.source, self.target, self.amount_nanos


@dataclass(slots=True)
class Locked:
    """An account that nobody else can change until the transaction ends."""

    id: str
    tenant_id: str | None
    balance_nanos: int
    held_nanos: int
    postings: int
    head: bytes
    at: datetime
    """The moment of the transaction."""

    @property
    def available_nanos(self) -> int:
        return self.balance_nanos - self.held_nanos


def wallet_of(tenant_id: str) -> str:
    """The account that is the tenant's wallet."""
    return f"{_WALLET}{tenant_id}"


def tenant_of(account_id: str) -> str:
    """The tenant whose wallet the account is."""
    return account_id.removeprefix(_WALLET)


async def lock(tx: Tx, account_ids: Iterable[str]) -> dict[str, Locked]:
    """Those of the accounts that exist, held until the transaction ends."""
    rows = await tx.execute(_LOCK, {"ids": list(account_ids)})
    return {row.id: Locked(*row) for row in rows}


async def post(tx: Tx, movements: Sequence[Movement]) -> dict[str, int]:
    """Makes the transfers that were not made before, all or none of them.

    Answers the new balance of each account that changed. Raises TransferConflict for an id whose
    transfer has other content, and InsufficientBalance when a wallet lacks what is taken from it.
    """
    wanted: dict[str, Movement] = {}
    for movement in movements:
        if wanted.setdefault(movement.id, movement) != movement:
            raise TransferConflict(transfer_id=movement.id)
    new = await _add(tx, wanted)
    if not new:
        return {}
    sides = {account for movement in new for account in (movement.source, movement.target)}
    chains = {id: _Chain(account) for id, account in (await lock(tx, sides)).items()}
    for movement in new:
        chains[movement.source].append(movement, -movement.amount_nanos)
        chains[movement.target].append(movement, movement.amount_nanos)
    await _write(tx, chains)
    return {id: chain.balance for id, chain in chains.items()}


async def hold(tx: Tx, account_id: str, nanos: int) -> None:
    """Sets money of the account aside; raises InsufficientBalance when so much is not available."""
    if await affected(tx, _HOLD, {"id": account_id, "nanos": nanos}) != 1:
        raise InsufficientBalance(account_id=account_id)


async def release(tx: Tx, amounts: Mapping[str, int]) -> None:
    """Makes what was held available again: nanos by account, whose rows are locked already."""
    values = {"ids": list(amounts), "amounts": list(amounts.values())}
    if amounts and await affected(tx, _RELEASE, values) != len(amounts):
        raise ArithmeticError("more was released than is held")


async def affected(tx: Tx, statement: Any, values: Mapping[str, Any]) -> int:
    """How many rows the statement has changed."""
    result = await tx.execute(statement, values)
    assert isinstance(result, CursorResult)
    return result.rowcount


def link(head: bytes, content: Sequence[str | int]) -> bytes:
    """The hash of a posting: SHA-256 over the one before it and its content, as a JSON array."""
    return hashlib.sha256(head + json.dumps(content, ensure_ascii=False).encode()).digest()


class _Chain:
    """An account's postings, as this transaction continues them."""

    def __init__(self, account: Locked) -> None:
        self.account = account
        self.balance = account.balance_nanos
        self.head = account.head
        self.released = 0
        self.added: list[tuple[str, int, str, int, int, bytes]] = []
        self._micros = (account.at - _EPOCH) // _MICROSECOND

    def append(self, movement: Movement, amount: int) -> None:
        account = self.account.id
        seq = self.account.postings + len(self.added) + 1
        self.balance += amount
        if amount < 0:
            self.released += movement.released_nanos
        self.head = link(
            self.head,
            (
                *(account, seq, movement.id, movement.kind, movement.source, movement.target),
                *(amount, self.balance, self._micros),
            ),
        )
        self.added.append((account, seq, movement.id, amount, self.balance, self.head))


async def _add(tx: Tx, wanted: Mapping[str, Movement]) -> list[Movement]:
    """Adds the transfers; answers those that were not there, in the order that was wanted."""
    values: dict[str, list[Any]] = {
        "ids": list(wanted),
        "kinds": [movement.kind for movement in wanted.values()],
        "sources": [movement.source for movement in wanted.values()],
        "targets": [movement.target for movement in wanted.values()],
        "amounts": [movement.amount_nanos for movement in wanted.values()],
    }
    new = set(await tx.scalars(_ADD_TRANSFERS, values))
    await _compare(tx, wanted, wanted.keys() - new)
    return [movement for id, movement in wanted.items() if id in new]


async def _compare(tx: Tx, wanted: Mapping[str, Movement], made: Collection[str]) -> None:
    if not made:
        return
    for id, *content in await tx.execute(_FIND_TRANSFERS, {"ids": list(made)}):
        if wanted[id].content != tuple(content):
            raise TransferConflict(transfer_id=id)


async def _write(tx: Tx, chains: Mapping[str, _Chain]) -> None:
    values: dict[str, list[Any]] = {
        "ids": list(chains),
        "deltas": [chain.balance - chain.account.balance_nanos for chain in chains.values()],
        "released": [chain.released for chain in chains.values()],
        "links": [len(chain.added) for chain in chains.values()],
        "places": [chain.account.postings for chain in chains.values()],
        "heads": [chain.head for chain in chains.values()],
    }
    if await affected(tx, _MOVE, values) != len(chains):
        raise InsufficientBalance(account_id=_overdrawn(chains))
    names = ("accounts", "seqs", "transfers", "amounts", "balances", "hashes")
    rows = [row for chain in chains.values() for row in chain.added]
    columns = zip(*rows, strict=True)
    await tx.execute(_ADD_POSTINGS, dict(zip(names, map(list, columns), strict=True)))


def _overdrawn(chains: Mapping[str, _Chain]) -> str:
    """The account that refused: for the error's text alone, since the database has decided."""
    for id, chain in chains.items():
        held = chain.account.held_nanos - chain.released
        if chain.account.tenant_id is not None and (held < 0 or chain.balance < held):
            return id
    return ", ".join(chains)
