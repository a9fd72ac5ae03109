"""The supervisor: keeps processes running, starts again what ends, ends all of them in order."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vlinders_embedded import logfiles
from vlinders_kit.embedded.programs import NotServing, tail

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
"""Seconds before a process that ended is started again: doubled each time, up to the longest."""
STEADY = 30.0
"""Seconds after which a process counts as one that runs, and its next end as its first."""
DRAIN = 35.0
"""Seconds that a process has to end in order; parts take 30 of them at most."""
LOOK_EVERY = 10.0
MISSED = 9
"""Seconds between two looks at a process that runs, and how many in a row it may leave without an
answer: then it hangs, and is killed to be started again."""
_POLL = 0.05

Report = Callable[[str], None]
"""Where the supervisor tells people what it does, a line at a time."""


@dataclass(frozen=True)
class Part:
    """A process to run, and how one knows that it serves."""

    name: str
    command: Sequence[str]
    serves: Callable[[], Awaitable[bool]]
    """Asks the process by its own protocol; quick, and False where nothing answers."""
    tier: int = 0
    """Parts of higher tiers end first: each needs those below it until it has ended."""
    number: int = 1
    """Which of the replicas of `name`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] | None = None
    """Runs before each start, in a thread."""
    ends_by: signal.Signals = signal.SIGTERM
    patience: float = 60.0
    """Seconds from its first start in which it must serve."""
    lives: Callable[[], Awaitable[bool]] | None = None
    """Asks whether the process answers anything at all; without, one that hangs is left alone."""

    @property
    def label(self) -> str:
        return f"{self.name}-{self.number}"


class Supervisor:
    """Holds processes for as long as its block lasts; at the block's end all have ended.

    `changed` is called whenever a pid is another than before. The supervisor's own end, however it
    comes about, is the end of the processes: the kernel sees to that.
    """

    def __init__(self, logs: Path, *, report: Report, changed: Callable[[], None]) -> None:
        self._logs = logs
        self._report = report
        self._changed = changed
        self._tasks = asyncio.TaskGroup()
        self._kept: list[_Kept] = []
        self._begun = time.monotonic()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._bounding = self._tasks.create_task(logfiles.hold_to_size(self._logs))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._drain()
        self._bounding.cancel()
        await self._tasks.__aexit__(None, None, None)

    def running(self) -> list[tuple[Part, int]]:
        """Every part with the pid of its process, where it has one at the moment."""
        return [(kept.part, kept.process.pid) for kept in self._kept if kept.process is not None]

    async def start(self, parts: Iterable[Part]) -> None:
        """Starts `parts` together and returns when all of them serve.

        From then on each is started again when it ends. Raises NotServing for the first one that
        ends before it has served, or does not serve in its time.
        """

        async def first(kept: _Kept) -> None:
            await kept.first_serves()
            self._report(f"  {time.monotonic() - self._begun:5.1f} s  {kept.part.label} is ready")

        new = [_Kept(part, self._logs, self._report, self._changed) for part in parts]
        self._kept.extend(new)
        for kept in new:
            self._tasks.create_task(kept.keep(), name=kept.part.label)
        await first_failure(*map(first, new))

    def kill(self) -> None:
        """Ends everything at once; for when ending in order takes too long."""
        for kept in self._kept:
            kept.kill()

    async def _drain(self) -> None:
        for tier in sorted({kept.part.tier for kept in self._kept}, reverse=True):
            ending = [kept for kept in self._kept if kept.part.tier == tier]
            names = sorted({kept.part.name for kept in ending})
            self._report(f"  ending {', '.join(names)}")
            await asyncio.gather(*(kept.end() for kept in ending))


async def first_failure(*work: Coroutine[Any, Any, None]) -> None:
    """Does all `work` together; raises the first NotServing as it is, and cancels the rest then."""
    failures: list[BaseException] = []
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except* NotServing as failed:
        failures.extend(failed.exceptions)
    if failures:  # raised here: before 3.11.4, what an `except*` raises comes out as a group
        raise failures[0]


class _Kept:
    """One part that is kept running."""

    def __init__(self, part: Part, logs: Path, report: Report, changed: Callable[[], None]) -> None:
        self.part = part
        self.log = logs / f"{part.label}.log"
        self.process: asyncio.subprocess.Process | None = None
        self._report = report
        self._changed = changed
        self._ending = asyncio.Event()
        self._ended = asyncio.Event()
        self._has_served = False
        self._outcome = ""
        """How it ended, the last time."""

    async def keep(self) -> None:
        pause = FIRST_PAUSE
        try:
            while not self._ending.is_set():
                begun = time.monotonic()
                self._outcome = await self._run()
                if self._ending.is_set() or not self._has_served:
                    return
                if time.monotonic() - begun > STEADY:
                    pause = FIRST_PAUSE
                self._report(f"{self.part.label} {self._outcome}; starting it again in {pause:g} s")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self._ended.set()

    async def first_serves(self) -> None:
        deadline = time.monotonic() + self.part.patience
        while not await self.part.serves():
            if self._ended.is_set():
                raise NotServing(self._failed(self._outcome))
            if time.monotonic() > deadline:
                raise NotServing(self._failed(f"is not ready after {self.part.patience:g} s"))
            await asyncio.sleep(_POLL)
        self._has_served = True

    async def end(self) -> None:
        self._ending.set()
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(self.part.ends_by)
        try:
            await asyncio.wait_for(self._ended.wait(), DRAIN)
        except TimeoutError:
            self._report(f"{self.part.label} did not end in {DRAIN:g} s and was killed")
            self.kill()
            await self._ended.wait()

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()

    async def _run(self) -> str:
        """Runs the process once; says how it ended."""
        try:
            if self.part.prepare is not None:
                await asyncio.to_thread(self.part.prepare)
            if self._ending.is_set():
                return "was not started"
            self.process = await self._spawn()
        except (OSError, RuntimeError) as error:
            return f"could not be started: {error}"
        if self._ending.is_set():  # told while it was being started
            self.process.send_signal(self.part.ends_by)
        self._changed()
        watching = asyncio.create_task(self._end_if_it_hangs())
        code = await self.process.wait()
        watching.cancel()
        with contextlib.suppress(ProcessLookupError):  # what it started and left behind
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process = None
        return f"ended with {_name(code)}"

    async def _end_if_it_hangs(self) -> None:
        """Watches a life of the process, from when it serves."""
        if self.part.lives is None:
            return
        served, missed = False, 0
        while missed < MISSED:
            await asyncio.sleep(LOOK_EVERY)
            served = served or await self.part.serves()
            missed = missed + 1 if served and not await self.part.lives() else 0
        self._report(f"{self.part.label} has not answered {MISSED} times in a row and is killed")
        self.kill()

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self.log.open("ab") as out:
            return await asyncio.create_subprocess_exec(
                *self.part.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                env=dict(self.part.environment),
                start_new_session=True,  # a terminal's Ctrl-C is for the supervisor alone
            )

    def _failed(self, how: str) -> str:
        last = "\n".join(f"    {line}" for line in tail(self.log).splitlines())
        return f"{self.part.label} {how}. The end of {self.log}:\n{last}"


def _name(code: int) -> str:
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name
