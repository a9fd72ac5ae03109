"""`python -m vlinders_billing.main`: the billing service, put together."""

from vlinders_billing import events
from vlinders_billing.recalls import Recalls
from vlinders_billing.service import services
from vlinders_billing.settings import BillingSettings
from vlinders_billing.upkeep import Upkeep
from vlinders_kit.bus import open_bus
from vlinders_kit.clock import SystemClock
from vlinders_kit.consumer import Consumer
from vlinders_kit.db import Database
from vlinders_kit.process import Process, run
from vlinders_kit.relay import Relay

NAME = "vlinders.billing"

USAGE_PAUSE = 0.25
"""Seconds between batches of usage. Leases cover what is not settled yet, so a wallet loses nothing
by it, and a charge is seen that much later; without it each request costs a transaction here."""


async def main(settings: BillingSettings) -> None:
    async with Process.of(NAME, settings) as process:
        db = Database(settings.database_url.get_secret_value(), application_name=NAME)
        process.closers.append(db.close)
        told = Recalls(db.url)
        process.background("recalls", told.run)
        process.drains.append(told.close)
        process.background("upkeep", Upkeep(db, settings, SystemClock()).run)
        for service in services(db, told, settings):
            process.serve(*service)
        _listen(process, db, settings)


def _listen(process: Process, db: Database, settings: BillingSettings) -> None:
    bus = open_bus(settings.bus.get_secret_value(), NAME)
    process.closers.append(bus.close)
    process.background("relay", Relay(db, bus).run)
    usage = Consumer(
        db,
        bus,
        group="billing",
        topics=("vlinders.inference",),
        handlers=events.of_usage(settings.grants, SystemClock()),
        pause=USAGE_PAUSE,
    )
    process.background("usage", usage.run)
    tenants = Consumer(
        db,
        bus,
        group="billing.tenants",
        topics=("vlinders.auth",),
        handlers=events.of_tenants(settings.grants),
    )
    process.background("tenants", tenants.run)


if __name__ == "__main__":
    run(main(BillingSettings.load()))
