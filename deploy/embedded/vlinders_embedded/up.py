"""Bringing a stack up, keeping it up, and taking it down again in order."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from vlinders_embedded import access, databases, first_call, folder
from vlinders_embedded.ends_with import ENDS_WITH, ending_with
from vlinders_embedded.minted import secrets_of
from vlinders_embedded.options import Options
from vlinders_embedded.parts import SERVICES, Stack
from vlinders_embedded.ports import require_free
from vlinders_embedded.supervisor import Report, Supervisor, first_failure
from vlinders_kit.embedded.programs import NotServing, tail

USABLE = 60.0
"""Seconds that the worker has to load its models once everything runs."""


class EndedEarly(RuntimeError):
    """The stack was told to end while it was starting."""


async def run(options: Options, *, report: Report, ready: Callable[[], None]) -> None:
    """Runs the stack until SIGTERM or SIGINT; `ready` is called when the first call would succeed.

    Raises PortTaken, NotServing and EndedEarly; then nothing runs any more. A second SIGINT, of
    somebody who does not want to wait, ends everything at once.
    """
    begun = time.monotonic()
    require_free(options.port)
    if left := folder.end_left_over(options.var):
        report(f"  ended {left} processes of a supervisor that was killed")
    secrets = secrets_of(options.var, admin_password=options.admin_password)
    with ExitStack() as claims:
        stack = Stack.plan(options, secrets, claims)
        report(f"Starting Vlinders in {options.var}")
        async with _supervised(stack, report) as (supervisor, told):
            if not await _unless(told, _start(stack, supervisor)):
                raise EndedEarly("told to end before everything was ready")
            access.write(stack, supervisor.running())
            report(f"\nVlinders is ready after {time.monotonic() - begun:.1f} s.")
            report(access.welcome(stack, first_call.model_to_call(stack)))
            ready()
            await told.wait()
    report("Everything has ended.")


@asynccontextmanager
async def _supervised(
    stack: Stack, report: Report
) -> AsyncIterator[tuple[Supervisor, asyncio.Event]]:
    """A supervisor, and the event of being told to end; access.json is true from start to end."""
    var, told = stack.options.var, asyncio.Event()

    def changed() -> None:
        access.write(stack, supervisor.running())

    supervisor = Supervisor(var / "logs", report=report, changed=changed)

    def interrupt() -> None:
        if told.is_set():
            supervisor.kill()
        told.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    try:
        with ending_with(os.environ.get(ENDS_WITH), told.set):
            async with supervisor:
                yield supervisor, told
    finally:
        access.write(stack, [])


async def _start(stack: Stack, supervisor: Supervisor) -> None:
    """The servers; then the services on their migrated databases, and beside them what has none."""
    begun_ns = time.time_ns()
    await supervisor.start(stack.servers())
    passwords = stack.secrets.databases
    await asyncio.to_thread(databases.ensure, stack.postgres.url("postgres"), passwords)
    parts = stack.parts()
    services = [part for part in parts if part.name in SERVICES]
    others = [part for part in parts if part.name not in SERVICES]

    async def start_services() -> None:
        await _migrate(stack)
        await supervisor.start(services)

    await first_failure(start_services(), supervisor.start(others))
    await first_call.await_usable(stack, since_ns=begun_ns, seconds=USABLE)


async def _migrate(stack: Stack) -> None:
    command, environment = stack.migrations()
    log = stack.options.var / "logs" / "migrations.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=out, stderr=out, env=environment
        )
        if await process.wait():
            raise NotServing(f"The migrations failed. The end of {log}:\n{tail(log)}")


async def _unless(told: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Does `work` to its end, unless told before; whether it was done."""
    doing, telling = asyncio.ensure_future(work), asyncio.ensure_future(told.wait())
    try:
        await asyncio.wait((doing, telling), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
        return doing.done()
    finally:
        for task in (doing, telling):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
