"""What billing does on events: wallets are opened once, by whoever comes first."""

import asyncio
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from sqlalchemy import select

from vlinders.auth.v1.events_pb2 import AccountRegistered, TenantCreated
from vlinders.billing.v1.events_pb2 import WalletEmptied, WalletFunded
from vlinders.inference.v1.events_pb2 import UsageGathered
from vlinders_billing import events, wallets
from vlinders_billing.ledger import PROMOTIONS
from vlinders_billing.wallets import Grants
from vlinders_kit.bus import Envelope
from vlinders_kit.clock import ManualClock
from vlinders_kit.events import envelope, outbox

GRANTS = Grants(signup_nanos=100, operator_nanos=10_000)
TENANTS = events.of_tenants(GRANTS)
USAGE = events.of_usage(GRANTS, ManualClock())


def told(*messages: Message) -> Sequence[Envelope]:
    return [envelope(message) for message in messages]


async def published(bank: Any, kind: type[Message]) -> list[Any]:
    async with bank.db.begin() as tx:
        mine = select(outbox.c.body).where(outbox.c.type == kind.DESCRIPTOR.full_name)
        return [kind.FromString(body) for body in await tx.scalars(mine.order_by(outbox.c.seq))]


async def test_a_tenant_gets_a_wallet_with_the_signup_grant(bank: Any) -> None:
    await TENANTS.take(bank.db, "billing", told(TenantCreated(tenant_id="ten_1", plan="free")))

    assert (await bank.wallet("ten_1")).balance_nanos == 100
    assert (await bank.account(PROMOTIONS)).balance_nanos == -100
    [funded] = await published(bank, WalletFunded)
    assert (funded.tenant_id, funded.transfer_id) == ("ten_1", "grant:signup:ten_1")
    assert funded.amount_nanos == 100


async def test_the_operators_tenant_gets_its_grant_besides(bank: Any) -> None:
    created = TenantCreated(tenant_id="ten_1", plan="operator", operator=True)

    await TENANTS.take(bank.db, "billing", told(created, created))
    await TENANTS.take(bank.db, "billing", told(created))

    assert (await bank.wallet("ten_1")).balance_nanos == 10_100
    assert (await bank.audit()).findings == []


async def test_a_grant_that_was_given_stays_when_the_setting_changes(bank: Any) -> None:
    created = TenantCreated(tenant_id="ten_1", operator=True)
    await TENANTS.take(bank.db, "billing", told(created))

    later = events.of_tenants(Grants(signup_nanos=7, operator_nanos=8))
    await later.take(bank.db, "billing", told(created))

    assert (await bank.wallet("ten_1")).balance_nanos == 10_100


async def test_a_wallet_opened_in_a_hurry_is_the_same_wallet(bank: Any) -> None:
    async def look() -> None:
        async with bank.db.begin() as tx:
            await wallets.get(tx, "ten_1", GRANTS)

    created = told(TenantCreated(tenant_id="ten_1", operator=True))
    await asyncio.gather(
        *(look() for _ in range(4)), TENANTS.take(bank.db, "billing", created), look()
    )

    assert (await bank.wallet("ten_1")).balance_nanos == 10_100
    assert (await bank.audit()).findings == []


async def test_a_setting_of_nothing_gives_nothing(bank: Any) -> None:
    none = events.of_tenants(Grants(0, 0))

    await none.take(bank.db, "billing", told(TenantCreated(tenant_id="ten_1", operator=True)))

    assert (await bank.wallet("ten_1")).balance_nanos == 0
    assert await published(bank, WalletFunded) == []


async def test_usage_that_takes_the_last_of_a_wallet_is_told(bank: Any) -> None:
    await bank.fund("ten_1", 100)
    await bank.lend("ten_1", 100, id="l")

    for nanos in (60, 40):
        await USAGE.take(bank.db, "billing", told(bank.usage("ten_1", "l", nanos)))

    assert [event.tenant_id for event in await published(bank, WalletEmptied)] == ["ten_1"]
    assert (await bank.wallet("ten_1")).balance_nanos == 0


async def test_usage_that_comes_twice_in_two_events_charges_once(bank: Any) -> None:
    await bank.fund("ten_1", 100)
    await bank.lend("ten_1", 100, id="l")
    event = bank.usage("ten_1", "l", 30)

    await USAGE.take(bank.db, "billing", told(event, event))
    await USAGE.take(bank.db, "billing", told(event))

    assert (await bank.wallet("ten_1")).balance_nanos == 70


async def test_usage_that_is_gathered_charges_each_request_once(bank: Any) -> None:
    await bank.fund("ten_1", 100)
    await bank.lend("ten_1", 100, id="l")
    one, two, three = (bank.usage("ten_1", "l", nanos) for nanos in (10, 20, 30))
    first = UsageGathered(gathering_id="gath_1", records=[one, two])
    again = UsageGathered(gathering_id="gath_2", records=[two, three])

    await USAGE.take(bank.db, "billing", told(first, again, one))
    await USAGE.take(bank.db, "billing", told(again))

    assert (await bank.wallet("ten_1")).balance_nanos == 40
    assert (await bank.audit()).findings == []


async def test_events_of_no_interest_are_passed_over(bank: Any) -> None:
    registered = AccountRegistered(account_id="acc_1", tenant_id="ten_1")

    await TENANTS.take(bank.db, "billing", told(registered))

    assert (await bank.audit()).accounts == 3
