"""`python -m vlinders_gpu_scheduler.main`: the scheduler, put together."""

from vlinders.gpu_scheduler.v1.picks_pb2_grpc import add_PickServiceServicer_to_server
from vlinders.gpu_scheduler.v1.workers_pb2_grpc import add_WorkerServiceServicer_to_server
from vlinders_gpu_scheduler.scheduler import Scheduler, Standing
from vlinders_gpu_scheduler.service import PickService, WorkerService
from vlinders_gpu_scheduler.settings import GpuSchedulerSettings
from vlinders_gpu_scheduler.tickets import TicketKeys
from vlinders_kit.bus import open_bus
from vlinders_kit.clock import SystemClock
from vlinders_kit.db import Database
from vlinders_kit.process import Process, run
from vlinders_kit.relay import Relay

NAME = "vlinders.gpu_scheduler"
WORKERS, PICKS = f"{NAME}.v1.WorkerService", f"{NAME}.v1.PickService"
FLEET = f"{NAME}.fleet"
"""A name for health alone: whether this replica has the fleet, and most of it is heard."""


async def main(settings: GpuSchedulerSettings) -> None:
    async with Process.of(NAME, settings) as process:
        db = Database(settings.database_url.get_secret_value(), application_name=NAME)
        process.closers.append(db.close)
        keys = TicketKeys(bytes.fromhex(settings.caller_key.get_secret_value()))

        async def tell(standing: Standing) -> None:
            """Clients that ask health find the active replica; a standby is alive all the same."""
            for service in (WORKERS, PICKS):
                await process.offer(service, offered=standing.active)
            await process.offer(FLEET, offered=standing.active and not standing.alarmed)

        await tell(Standing())
        scheduler = Scheduler(
            db, SystemClock(), keys, settings.bounds, holder=settings.holder, told=tell
        )
        picks = PickService(scheduler)
        workers = WorkerService(scheduler, settings.join_token.get_secret_value())
        process.serve(WORKERS, add_WorkerServiceServicer_to_server, workers)
        process.serve(PICKS, add_PickServiceServicer_to_server, picks)
        process.background("scheduler", scheduler.run)
        process.background("standby tables", picks.run)
        process.drains.append(scheduler.drain)
        bus = open_bus(settings.bus.get_secret_value(), NAME)
        process.closers.append(bus.close)
        process.background("relay", Relay(db, bus).run)


if __name__ == "__main__":
    run(main(GpuSchedulerSettings.load()))
