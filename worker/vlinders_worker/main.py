"""The worker agent as a process: put together, run, and ended in order."""

import asyncio
import signal

import uvloop
from prometheus_client import start_http_server

from vlinders_kit import logs, tracing
from vlinders_worker import gpus, identity
from vlinders_worker.agent import Agent
from vlinders_worker.engines import configuration
from vlinders_worker.settings import WorkerSettings


def run(settings: WorkerSettings) -> None:
    """Runs the agent until SIGTERM or SIGINT. Exits, and says why, if something is missing."""
    logs.configure("vlinders.worker", level=settings.log_level)
    tracing.export("vlinders.worker", settings.traces, sampled=0.0)  # it begins none
    configurations = configuration.load(settings.engines)
    pretended = gpus.pretend(settings.pretend_gpus) if settings.pretend_gpus else None
    with identity.claimed(settings.state_dir) as who:
        agent = Agent(settings, who, configurations, pretended)
        if settings.metrics_port:
            start_http_server(settings.metrics_port, addr=settings.host)
        uvloop.run(_serve(agent))


async def _serve(agent: Agent) -> None:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    try:
        await agent.serve(told)
    finally:
        await tracing.close()


if __name__ == "__main__":
    run(WorkerSettings.load())
