"""What billing does when something happens elsewhere."""

from vlinders.auth.v1.events_pb2 import TenantCreated
from vlinders.inference.v1.events_pb2 import UsageGathered, UsageRecorded
from vlinders_billing import usage, wallets
from vlinders_billing.wallets import Grants
from vlinders_kit.clock import Clock
from vlinders_kit.db import Tx
from vlinders_kit.events import Handlers


def of_usage(grants: Grants, clock: Clock) -> Handlers:
    """Charges what inference has recorded, a fetch at a time."""
    handlers = Handlers()

    @handlers.on_batch(UsageGathered)
    async def charge(tx: Tx, events: list[UsageGathered]) -> None:
        records = [record for event in events for record in event.records]
        await usage.record(tx, records, grants, clock.now())

    @handlers.on_batch(UsageRecorded)
    async def charge_alone(tx: Tx, events: list[UsageRecorded]) -> None:
        await usage.record(tx, events, grants, clock.now())

    return handlers


def of_tenants(grants: Grants) -> Handlers:
    """Opens wallets. Apart from usage, so that the two take their locks in their own order."""
    handlers = Handlers()

    @handlers.on_batch(TenantCreated)
    async def open_wallets(tx: Tx, events: list[TenantCreated]) -> None:
        await wallets.open(tx, [event.tenant_id for event in events], grants)
        for event in events:
            if event.operator:
                await wallets.grant_operator(tx, event.tenant_id, grants)

    return handlers
