"""Wallets: what a tenant has, opened once with what the platform gives it."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Select, select, text

from vlinders.billing.v1.events_pb2 import WalletFunded
from vlinders_billing import ledger, recalls
from vlinders_billing.errors import BalanceHeld
from vlinders_billing.ledger import PROMOTIONS, Movement, wallet_of
from vlinders_billing.models import Account, Posting, Transfer
from vlinders_kit.db import Tx
from vlinders_kit.events import publish

_OPEN = text("""
    INSERT INTO account (id, tenant_id)
    SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:tenants AS text[])) AS new(id) ORDER BY id
    ON CONFLICT DO NOTHING RETURNING tenant_id
""")


@dataclass(frozen=True)
class Grants:
    """What the platform gives, in nanos."""

    signup_nanos: int
    """To every tenant, when its wallet is opened."""
    operator_nanos: int
    """To the operator's own tenant besides."""


async def open(tx: Tx, tenant_ids: Collection[str], grants: Grants) -> None:
    """Opens the wallets that do not exist, each with the sign-up grant, which so comes once.

    Comes before anything else of the transaction that takes locks.
    """
    ids = sorted(set(tenant_ids))
    values = {"ids": [wallet_of(id) for id in ids], "tenants": ids}
    new = list(await tx.scalars(_OPEN, values))
    transfers = {tenant: f"grant:signup:{tenant}" for tenant in new}
    await _pay(tx, "grant", transfers, grants.signup_nanos)


async def grant_operator(tx: Tx, tenant_id: str, grants: Grants) -> None:
    """Gives the operator's grant to a wallet, unless it has got one, of whatever size."""
    transfer_id = f"grant:operator:{tenant_id}"
    if await tx.get(Transfer, transfer_id) is None:
        await _pay(tx, "grant", {tenant_id: transfer_id}, grants.operator_nanos)


async def get(tx: Tx, tenant_id: str, grants: Grants) -> Account:
    """The tenant's wallet; opened now where its TenantCreated has not come yet."""
    mine = select(Account).where(Account.tenant_id == tenant_id)
    if (wallet := await tx.scalar(mine)) is None:
        await open(tx, [tenant_id], grants)
        wallet = (await tx.scalars(mine)).one()
    return wallet


async def set_balance(tx: Tx, tenant_id: str, nanos: int, grants: Grants, *, id: str) -> None:
    """Has the tenant's wallet hold so much, by the transfer `id`; raises BalanceHeld."""
    await open(tx, [tenant_id], grants)
    wallet = wallet_of(tenant_id)
    now = (await ledger.lock(tx, [wallet]))[wallet]
    if nanos < now.held_nanos:
        raise BalanceHeld(held_nanos=now.held_nanos)
    more = nanos - now.balance_nanos
    if more > 0:
        await _pay(tx, "adjustment", {tenant_id: id}, more)
    elif more < 0:
        await ledger.post(tx, [Movement(id, "adjustment", wallet, PROMOTIONS, -more)])


def of_tenants(tenant_ids: Collection[str]) -> Select[tuple[Account]]:
    """The wallets of these tenants, as far as they are open."""
    return select(Account).where(Account.tenant_id.in_(tenant_ids))


def postings_of(tenant_id: str) -> Select[tuple[Posting]]:
    """What moved through the tenant's wallet."""
    return select(Posting).where(Posting.account_id == wallet_of(tenant_id))


async def _pay(tx: Tx, kind: str, transfers: dict[str, str], nanos: int) -> None:
    """Moves `nanos` to each tenant, by a transfer of the given id."""
    if not transfers or not nanos:
        return
    moves = [
        Movement(id, kind, PROMOTIONS, wallet_of(tenant), nanos) for tenant, id in transfers.items()
    ]
    await ledger.post(tx, moves)
    await recalls.tell_back(tx, transfers)
    funded = (
        WalletFunded(tenant_id=tenant, transfer_id=id, amount_nanos=nanos)
        for tenant, id in transfers.items()
    )
    await publish(tx, *funded)
