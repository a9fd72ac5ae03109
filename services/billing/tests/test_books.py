"""The books under anything: a model in twenty lines agrees, and sixteen at once break nothing."""

import asyncio
import random
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from vlinders_billing.errors import LeaseOver
from vlinders_billing.leases import Return, Short
from vlinders_billing.ledger import LOSS, REVENUE
from vlinders_kit.ids import new_id

LEASES = st.integers(0, 3)
NANOS = st.integers(0, 120)
OPERATIONS = st.one_of(
    st.tuples(st.just("fund"), st.integers(1, 100)),
    st.tuples(st.just("lend"), LEASES, st.integers(1, 60), st.integers(1, 90)),
    st.tuples(st.just("give_back"), LEASES, NANOS, st.booleans()),
    st.tuples(st.just("use"), LEASES, NANOS),
    st.tuples(st.just("expire")),
)


@dataclass
class ModelLease:
    granted: int
    open: int
    asked: tuple[int, int]
    closed: bool = False
    over: bool = False

    def take(self, nanos: int) -> int:
        taken = min(nanos, self.open)
        self.open -= taken
        self.over |= self.closed and not self.open
        return taken


@dataclass
class Model:
    """What one tenant's books must say."""

    balance: int = 0
    revenue: int = 0
    lost: int = 0
    leases: dict[int, ModelLease] = field(default_factory=dict)

    @property
    def available(self) -> int:
        return self.balance - sum(lease.open for lease in self.leases.values())

    def fund(self, nanos: int) -> None:
        self.balance += nanos

    def lend(self, lease: int, least: int, wanted: int) -> Any:
        granted = min(max(least, wanted), self.available)
        if lease in self.leases:
            made = self.leases[lease]
            return LeaseOver if made.over or made.closed else made.granted
        if granted < least:
            return Short(self.available, 0)  # whoever asks has all that is lent
        self.leases[lease] = ModelLease(granted, granted, (least, wanted))
        return granted

    def give_back(self, id: int, nanos: int, close: bool) -> None:
        if (lease := self.leases.get(id)) is not None and not lease.over:
            lease.closed |= close
            lease.take(nanos)

    def use(self, id: int, nanos: int) -> None:
        lease = self.leases.get(id)
        live = lease is not None and not lease.over
        paid = lease.take(nanos) if lease is not None and live else min(nanos, self.available)
        self.balance -= paid
        self.lost += nanos - paid
        self.revenue += nanos

    def expire(self) -> None:
        for lease in self.leases.values():
            lease.open, lease.over = 0, True


@given(st.lists(OPERATIONS, min_size=1, max_size=30))
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_a_model_agrees_after_every_operation(bank: Any, operations: list[Any]) -> None:
    tenant, model = new_id("ten"), Model()
    await bank.fund(tenant, 0)
    before = [(await bank.account(id)).balance_nanos for id in (REVENUE, LOSS)]

    for name, *values in operations:
        if name == "lend" and values[0] in model.leases:
            values[1:] = model.leases[values[0]].asked  # asking again asks for the same
        expected = getattr(model, name)(*values)
        assert await do(bank, tenant, name, *values) == expected
        wallet = await bank.wallet(tenant)
        assert (wallet.balance_nanos, wallet.available_nanos) == (model.balance, model.available)

    after = [(await bank.account(id)).balance_nanos for id in (REVENUE, LOSS)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [model.revenue, -model.lost]
    assert (await bank.audit()).findings == []


async def do(bank: Any, tenant: str, name: str, *values: int) -> Any:
    """One operation on the real books, and once more where it can be repeated."""
    if name == "fund":
        return await bank.fund(tenant, *values)
    if name == "expire":
        await bank.pass_time(timedelta(hours=1))
        return await bank.sweep()
    lease = f"{tenant}:{values[0]}"
    if name == "lend":
        try:
            return await bank.lend(tenant, *values[1:], id=lease)
        except LeaseOver:
            return LeaseOver
    if name == "give_back":
        back = Return(new_id("return"), lease, values[1], bool(values[2]))
        await bank.give_back(back)
        return await bank.give_back(back)
    event = bank.usage(tenant, lease, values[1])
    await bank.record(event)
    await bank.record(event)
    return None


async def test_hundreds_of_operations_sixteen_at_once_leave_the_books_sound(bank: Any) -> None:
    chance = random.Random(11)
    tenants = [f"ten_{n}" for n in range(4)]
    for tenant in tenants:
        await bank.fund(tenant, 2_000)
    used = 0

    async def client(moves: int) -> None:
        nonlocal used
        for _ in range(moves):
            tenant, lease = chance.choice(tenants), f"lease_{chance.randrange(60)}"
            match chance.randrange(5):
                case 0:
                    await bank.lend(tenant, 5, 50, holder=f"inf_{chance.randrange(3)}")
                case 1:
                    back = Return(f"return_{chance.randrange(99)}", lease, 3, closes=False)
                    await bank.give_back(back, holder="inf_1")
                case 2:
                    await bank.sweep(timedelta(0))
                case 3:
                    await bank.lend(tenant, 5, 50, id=f"{lease}:{tenant}")
                case _:
                    nanos = chance.randrange(1, 20)
                    events = [
                        bank.usage(name, f"{lease}:{name}", nanos)
                        for name in chance.sample(tenants, 3)
                    ]
                    used += 3 * nanos
                    await asyncio.gather(bank.record(*events), bank.record(*reversed(events)))

    await asyncio.gather(*(client(30) for _ in range(16)))

    found = await bank.audit()
    assert found.findings == []
    assert (await bank.account(REVENUE)).balance_nanos == used
    drift = text("""
        SELECT (SELECT sum(charged_nanos) FROM usage_record), sum(charged_nanos), sum(requests),
            (SELECT count(*) FROM usage_record)
        FROM usage_hour
    """)
    async with bank.db.begin() as tx:
        lines, hours, requests, count = (await tx.execute(drift)).one()
    assert (lines, requests) == (hours, count)
    balances = [(await bank.wallet(tenant)).balance_nanos for tenant in tenants]
    assert sum(balances) == 8_000 - lines
