"""The worker agent as a process: put together, run, and ended in order."""

import asyncio
import contextlib
import signal

import uvloop

from vlinders_kit import internal, logs, metrics, tracing
from vlinders_worker import gpus, identity
from vlinders_worker.agent import Agent
from vlinders_worker.engines import configuration
from vlinders_worker.settings import WorkerSettings


def run(settings: WorkerSettings) -> None:
    """Runs the agent until SIGTERM or SIGINT. Exits, and says why, if something is missing."""
    logs.configure("vlinders.worker", level=settings.log_level)
    metrics.told_of("vlinders.worker")
    tracing.export("vlinders.worker", settings.traces, sampled=0.0)  # it begins none
    configurations = configuration.load(settings.engines)
    pretended = gpus.pretend(settings.pretend_gpus) if settings.pretend_gpus else None
    with identity.claimed(settings.state_dir) as who:
        agent = Agent(settings, who, configurations, pretended)
        uvloop.run(_serve(agent, settings))


async def _serve(agent: Agent, settings: WorkerSettings) -> None:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(tracing.close)
        if settings.metrics_port:
            inside = internal.serving(
                settings.host, settings.metrics_port, lambda: agent.server.ready
            )
            await stack.enter_async_context(inside)
            looking = asyncio.create_task(metrics.watch_loop())
            stack.callback(looking.cancel)
        await agent.serve(told)


if __name__ == "__main__":
    run(WorkerSettings.load())
