"""`python -m vlinders_inference.main`: the inference service, put together."""

import os
import sys
from functools import partial

from grpc.aio import Channel

from vlinders_inference import catalogue, configuration
from vlinders_inference.admission import CreditBook
from vlinders_inference.billing import Billing
from vlinders_inference.catalogue import Catalogue
from vlinders_inference.configuration import CatalogueInvalid, Configured
from vlinders_inference.generations import Generations
from vlinders_inference.metering import UsageLog
from vlinders_inference.picks import Picks
from vlinders_inference.price_list import PriceList
from vlinders_inference.providers import Providers
from vlinders_inference.routes import Router
from vlinders_inference.service import PIPE, GenerationService, services
from vlinders_inference.settings import InferenceSettings
from vlinders_inference.waits import Watch
from vlinders_inference.workers import Workers
from vlinders_kit.bus import open_bus
from vlinders_kit.callers import Identity
from vlinders_kit.clock import SystemClock
from vlinders_kit.db import Database
from vlinders_kit.ids import new_id
from vlinders_kit.process import Process, run
from vlinders_kit.relay import Relay
from vlinders_kit.rpc import Guard, connect
from vlinders_kit.sealing import Sealer

NAME = "vlinders.inference"
PICKS = "vlinders.gpu_scheduler.v1.PickService"
"""What the active replica of the gpu-scheduler offers, and no other."""

PRICES_WITHIN = 10.0
"""Seconds that a start waits for the prices, so that who is ready can sell."""

USAGE_GATHER = 1.0
"""Seconds in which usage gathers before it is sent on: nobody waits for it, and each time costs
some 15 ms of CPU, here, in billing and in Postgres. What comes alone goes at once."""


async def main(settings: InferenceSettings) -> None:
    configured = _configured(settings)
    async with Process.of(NAME, settings) as process:
        db = Database(settings.database_url.get_secret_value(), application_name=NAME)
        process.closers.append(db.close)
        models = await _catalogue(db, configured, settings)
        identity, tls = Identity("inference", settings.key), settings.tls
        to_billing = connect(settings.billing, "vlinders.billing", identity, tls)
        process.closers.append(to_billing.close)
        billing = Billing(to_billing, holder=new_id("holder"))
        await _follow_prices(process, db, billing, models, configured, settings)
        credit = CreditBook(billing, SystemClock())
        process.background("credit", credit.run)
        process.closers.append(credit.close)
        usage = UsageLog(db.url)
        process.background("usage", usage.run)
        process.closers.append(usage.close)
        to_scheduler = connect(
            settings.gpu_scheduler, "vlinders.gpu_scheduler", identity, tls, offering=PICKS
        )
        process.closers.append(to_scheduler.close)
        router = _router(process, to_scheduler, models, settings)
        _serve(process, models, credit, router, usage, settings)


def _configured(settings: InferenceSettings) -> Configured:
    try:
        return configuration.read(settings.catalogue, settings.providers, os.environ)
    except CatalogueInvalid as invalid:
        sys.stderr.write(f"{invalid}\n")
        raise SystemExit(2) from None


async def _catalogue(
    db: Database, configured: Configured, settings: InferenceSettings
) -> Catalogue:
    sealer = Sealer.load(settings.sealing_key_file)
    async with db.begin() as tx:
        await catalogue.store(tx, configured, sealer)
        return await catalogue.load(tx, sealer)


async def _follow_prices(
    process: Process,
    db: Database,
    billing: Billing,
    models: Catalogue,
    configured: Configured,
    settings: InferenceSettings,
) -> None:
    bus = open_bus(settings.bus.get_secret_value(), NAME)
    process.closers.append(bus.close)
    process.background("relay", Relay(db, bus, gather=USAGE_GATHER).run)
    prices = PriceList(billing, models, catalogue.configured_prices(configured))
    process.background("prices", prices.run)
    changes = partial(bus.broadcast, ("vlinders.billing",), prices.notice)
    process.background("price changes", changes)
    await prices.start(within=PRICES_WITHIN)


def _router(
    process: Process, channel: Channel, models: Catalogue, settings: InferenceSettings
) -> Router:
    workers = Workers(connect_seconds=settings.timeouts.connect)
    picks = Picks(channel, workers.suspect)
    process.background("picks", picks.run)
    router = Router(picks, workers, Providers(models.models.values(), settings.timeouts))
    process.closers.append(router.close)
    return router


def _serve(
    process: Process,
    models: Catalogue,
    credit: CreditBook,
    router: Router,
    usage: UsageLog,
    settings: InferenceSettings,
) -> None:
    watch = Watch()
    process.background("watch", watch.run)
    generations = Generations(models, credit, router, usage, watch, settings.timeouts)
    service = GenerationService(generations)
    pipes = service.pipe.listen(
        settings.host,
        settings.pipe_port,
        path=PIPE,
        guard=Guard(NAME, settings.key),
        tls=settings.tls,
    )
    process.background("pipes", pipes.run)
    process.background("pressure", service.pipe.pressure.run)
    process.drains.append(service.pipe.drain)
    for each in services(service, models):
        process.serve(*each)


if __name__ == "__main__":
    run(main(InferenceSettings.load()))
