"""The supervisor, with small programs of the shell in the place of parts."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from vlinders_embedded.supervisor import Part, Supervisor
from vlinders_kit.embedded.programs import NotServing, leashed


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


class Told:
    """What the supervisor told, and a way to wait for the next pids."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changes = asyncio.Event()

    def changed(self) -> None:
        self._changes.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self._changes.clear()
                await self._changes.wait()


@asynccontextmanager
async def supervised(logs: Path) -> AsyncIterator[tuple[Supervisor, Told]]:
    told = Told()
    async with Supervisor(logs, report=told.lines.append, changed=told.changed) as supervisor:
        yield supervisor, told


def part(name: str, script: str, *, tier: int = 0, up: Path | None = None) -> Part:
    """A part that serves as soon as the file `up` exists; at once without."""
    return Part(
        name,
        leashed(["sh", "-c", script]),
        exists(up),
        tier=tier,
        environment=dict(os.environ),
        patience=10,
    )


def exists(file: Path | None) -> Callable[[], Awaitable[bool]]:
    async def serves() -> bool:
        return file is None or await asyncio.to_thread(file.exists)

    return serves


def is_alive(pid: int) -> bool:
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


async def test_what_ends_is_started_again(logs: Path) -> None:
    async with supervised(logs) as (supervisor, told):
        await supervisor.start([part("sleeper", "exec sleep 600")])
        [(_, first)] = supervisor.running()
        os.kill(first, signal.SIGKILL)
        await told.until(lambda: [pid for _, pid in supervisor.running()] not in ([], [first]))

    assert "sleeper-1 ended with SIGKILL; starting it again in 0.2 s" in told.lines


async def test_what_hangs_is_killed_and_started_again(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlinders_embedded.supervisor.LOOK_EVERY", 0.01)
    answers = tmp_path / "answers"
    answers.touch()
    sleeper = replace(part("sleeper", "exec sleep 600"), lives=exists(answers))
    async with supervised(logs) as (supervisor, told):
        await supervisor.start([sleeper])
        [(_, first)] = supervisor.running()
        answers.unlink()
        await told.until(lambda: [pid for _, pid in supervisor.running()] not in ([], [first]))
        answers.touch()

    assert "sleeper-1 has not answered 9 times in a row and is killed" in told.lines


async def test_what_answers_again_in_time_goes_on(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlinders_embedded.supervisor.LOOK_EVERY", 0.001)
    said = iter([False] * 8 + [True] + [False] * 8)
    over = asyncio.Event()

    async def lives() -> bool:
        if (answer := next(said, None)) is None:
            over.set()
        return answer is not False

    async with supervised(logs) as (supervisor, told):
        await supervisor.start([replace(part("sleeper", "exec sleep 600"), lives=lives)])
        before = supervisor.running()
        await over.wait()
        assert supervisor.running() == before
    assert not [line for line in told.lines if "is killed" in line]


async def test_what_keeps_ending_is_started_less_and_less_often(logs: Path, tmp_path: Path) -> None:
    script = f"echo >> {tmp_path}/starts; test $(wc -l < {tmp_path}/starts) -ge 4 && exec sleep 600"
    async with supervised(logs) as (supervisor, told):
        await supervisor.start([part("failing", script)])
        await told.until(lambda: sum("starting it again" in line for line in told.lines) == 3)

    pauses = [line.split()[-2] for line in told.lines if "starting it again" in line]
    assert pauses == ["0.2", "0.4", "0.8"]


async def test_a_part_that_does_not_come_up_is_told_with_its_last_words(
    logs: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotServing, match=r"(?s)broken-1 ended with exit status 3\..*no such key"):
        async with supervised(logs) as (supervisor, _):
            await supervisor.start(
                [
                    part("broken", "echo no such key; exit 3", up=tmp_path / "never"),
                    part("sleeper", "exec sleep 600"),
                ]
            )


async def test_a_preparation_that_fails_is_the_reason(logs: Path) -> None:
    def refuse() -> None:
        raise RuntimeError("the data is of another version")

    with pytest.raises(NotServing, match="could not be started: the data is of another version"):
        async with supervised(logs) as (supervisor, _):
            await supervisor.start([Part("db", ["true"], exists(Path("/no")), prepare=refuse)])


async def test_higher_tiers_have_ended_before_lower_ones_are_told(
    logs: Path, tmp_path: Path
) -> None:
    order = tmp_path / "order"

    def ending(name: str, tier: int) -> Part:
        up = tmp_path / name
        slow = f"sleep 0.3; echo {name} >> {order}; exit"
        script = f"trap '{slow}' TERM; touch {up}; while :; do sleep 0.05; done"
        return part(name, script, tier=tier, up=up)

    async with supervised(logs) as (supervisor, _):
        await supervisor.start([ending("low", 1), ending("high", 3), ending("middle", 2)])

    assert order.read_text().split() == ["high", "middle", "low"]


async def test_nothing_runs_after_the_block_even_when_it_fails(logs: Path) -> None:
    pids = []

    async def fail(supervisor: Supervisor) -> None:
        await supervisor.start([part("sleeper", "exec sleep 600")])
        pids.extend(pid for _, pid in supervisor.running())
        raise LookupError

    with pytest.raises(LookupError):
        async with supervised(logs) as (supervisor, _):
            await fail(supervisor)

    assert pids
    assert not any(map(is_alive, pids))


async def test_what_a_part_left_behind_ends_with_it(logs: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = f"sleep 600 & echo $! > {child}.new; mv {child}.new {child}; wait"
    async with supervised(logs) as (supervisor, told):
        await supervisor.start([part("parent", script, up=child)])
        left = int(child.read_text())
        [(_, pid)] = supervisor.running()
        os.kill(pid, signal.SIGKILL)
        await told.until(lambda: [now for _, now in supervisor.running()] not in ([], [pid]))

        assert not is_alive(left)


async def test_a_killed_supervisor_takes_its_parts_along(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_supervisor import part, supervised

async def main():
    async with supervised(Path({str(tmp_path)!r})) as (supervisor, _):
        await supervisor.start([part("sleeper", "echo $$; exec sleep 600")])
        print(supervisor.running()[0][1], flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    assert supervisor.stdout is not None
    child = os.pidfd_open(int(await supervisor.stdout.readline()))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(child, ended.set)

    supervisor.kill()
    await supervisor.wait()

    async with asyncio.timeout(10):
        await ended.wait()
    asyncio.get_running_loop().remove_reader(child)
    os.close(child)
