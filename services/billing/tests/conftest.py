"""What the tests of billing share: a bank, which is billing's rules on a real database."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import select, text

from vlinders.billing.v1.credit_pb2 import AcquireLeaseRequest
from vlinders.inference.v1.events_pb2 import UsageRecorded
from vlinders_billing import leases, ledger, price_versions, usage, wallets
from vlinders_billing.audit import Audit, audit
from vlinders_billing.charges import Charge
from vlinders_billing.leases import Ask, Return, Short
from vlinders_billing.ledger import PROMOTIONS, Movement, wallet_of
from vlinders_billing.models import Account, Lease, UsageRecord
from vlinders_billing.price_versions import Wanted
from vlinders_billing.prices import Price
from vlinders_billing.recalls import Recalls
from vlinders_billing.service import services
from vlinders_billing.settings import BillingSettings
from vlinders_billing.wallets import Grants
from vlinders_kit.db import Database, Tx
from vlinders_kit.ids import new_id
from vlinders_kit.testing import Served, named, served

package = named("vlinders_billing")

NOW = datetime(2026, 7, 31, 23, 59, tzinfo=UTC)
MINUTE = timedelta(seconds=60)
NOTHING = Grants(0, 0)


@dataclass
class Bank:
    """Billing without its rim: each call is a unit of work of its own."""

    db: Database
    grants: Grants = NOTHING
    version: str = ""
    """The price that `usage` is made with."""
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(10))
    """As many as there are connections: more would not wait for one as long as a test can take."""

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Tx]:
        async with self.turns, self.db.begin() as tx:
            yield tx

    async def fund(self, tenant_id: str, nanos: int) -> None:
        async with self.begin() as tx:
            await wallets.open(tx, [tenant_id], NOTHING)
            if nanos:
                gift = Movement(new_id("gift"), "gift", PROMOTIONS, wallet_of(tenant_id), nanos)
                await ledger.post(tx, [gift])

    async def post(self, *movements: Movement) -> dict[str, int]:
        async with self.begin() as tx:
            return await ledger.post(tx, movements)

    async def lend(
        self, tenant_id: str, least: int, wanted: int = 0, *, id: str = "", holder: str = "inf_1"
    ) -> int | Short:
        ask = Ask(id or new_id("lease"), tenant_id, holder, least, wanted or least)
        async with self.begin() as tx:
            wallet = (await ledger.lock(tx, [wallet_of(tenant_id)]))[wallet_of(tenant_id)]
            return await leases.acquire(tx, ask, wallet, MINUTE)

    def ask(self, tenant_id: str, least: int, wanted: int = 0, **over: Any) -> AcquireLeaseRequest:
        """What a holder would send."""
        usual: dict[str, Any] = {
            "lease_id": new_id("lease"),
            "tenant_id": tenant_id,
            "holder": "inf_1",
            "least_nanos": least,
            "wanted_nanos": wanted or least,
        }
        return AcquireLeaseRequest(**{**usual, **over})

    @asynccontextmanager
    async def replica(self, **over: Any) -> AsyncIterator[Served]:
        """A billing replica on this database, with the settings that are named."""
        told = Recalls(self.db.url)
        listening = asyncio.create_task(told.run())
        await told.listening.wait()
        rim = services(self.db, told, self.settings(**over))
        try:
            async with served("vlinders.billing", *rim) as running:
                yield running
                await told.close()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    def settings(self, **over: Any) -> BillingSettings:
        usual = {"port": 1, "caller_key": "00" * 32, "database_url": self.db.url, "bus": "memory:"}
        return BillingSettings(**{**usual, **over})

    async def give_back(self, *returns: Return, holder: str = "inf_1") -> None:
        async with self.begin() as tx:
            await leases.give_back(tx, holder, returns)

    async def renew(self, *lease_ids: str, holder: str = "inf_1") -> Sequence[str]:
        async with self.begin() as tx:
            return await leases.renew(tx, holder, lease_ids, MINUTE)

    async def sweep(self, grace: timedelta = MINUTE) -> None:
        async with self.begin() as tx:
            await leases.sweep(tx, grace)

    async def pass_time(self, by: timedelta) -> None:
        """Leases are judged by the database's clock, so it is they who move."""
        async with self.begin() as tx:
            await tx.execute(
                text("UPDATE lease SET expires_at = expires_at - :by, over_at = over_at - :by"),
                {"by": by},
            )

    async def price(self, model: str, input: int, cached: int, output: int) -> str:
        async with self.begin() as tx:
            wanted = Wanted(model, Price(input, cached, output))
            return (await price_versions.put(tx, [wanted]))[0].version

    async def record(self, *events: UsageRecorded) -> list[Charge]:
        async with self.begin() as tx:
            return await usage.record(tx, events, self.grants, NOW)

    def usage(
        self, tenant_id: str, lease_id: str = "", charged: int = 0, **over: Any
    ) -> UsageRecorded:
        """A request that has ended; its output tokens cost a nano each, by the price `version`."""
        usual: dict[str, Any] = {
            "request_id": new_id("req"),
            "tenant_id": tenant_id,
            "account_id": "acc_1",
            "model": "tiny",
            "served_by": "worker",
            "price_version": self.version,
            "lease_id": lease_id,
            "output_tokens": charged,
            "ceiling_nanos": charged,
            "charged_nanos": charged,
            "outcome": UsageRecorded.OUTCOME_COMPLETED,
            "finished_at": Timestamp(seconds=int(NOW.timestamp())),
            "operation": "CreateChatCompletion",
            "total_ms": 10,
        }
        return UsageRecorded(**{**usual, **over})

    async def account(self, id: str) -> Account:
        async with self.begin() as tx:
            return (await tx.scalars(select(Account).where(Account.id == id))).one()

    async def wallet(self, tenant_id: str) -> Account:
        return await self.account(wallet_of(tenant_id))

    async def lease(self, id: str) -> Lease:
        async with self.begin() as tx:
            return (await tx.scalars(select(Lease).where(Lease.id == id))).one()

    async def records(self) -> Sequence[UsageRecord]:
        async with self.begin() as tx:
            return (await tx.scalars(select(UsageRecord).order_by(UsageRecord.request_id))).all()

    async def count(self, table: str) -> int:
        async with self.begin() as tx:
            return int(await tx.scalar(text(f"SELECT count(*) FROM {table}")) or 0)

    async def audit(self) -> Audit:
        async with self.begin() as tx:
            return await audit(tx)

    async def tamper(self, *statements: str) -> None:
        """Does what only the database's owner can: passes by triggers and foreign keys."""
        async with self.begin() as tx:
            await tx.execute(text("SET LOCAL session_replication_role = replica"))
            for statement in statements:
                await tx.execute(text(statement))


@pytest.fixture
async def bank(db: Database) -> Bank:
    bank = Bank(db)
    bank.version = await bank.price("tiny", 0, 0, 1)
    return bank
