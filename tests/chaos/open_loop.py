"""Calls that come when they come, whether or not the ones before were answered: as crowds do.

`python -m tests.chaos.open_loop` takes a Plan as JSON and tells the calls as JSON. It is a process
of its own, so that what it measures is not its own waiting.
"""

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Plan:
    """What is asked of the gateway at `host` and `port`."""

    host: str
    port: int
    key: str
    bodies: Sequence[dict[str, Any]]
    """Of the calls, in turn."""
    rate: float
    """Calls a second; 0: `together` at a time, each after the one before."""
    together: int
    seconds: float


@dataclass(frozen=True)
class Made:
    """One call: when it was to begin, how long its answer took, and what that was."""

    at: float
    seconds: float
    status: int
    """0: there was no answer."""
    whole: bool
    retry_after: int
    """What a refusal says, in seconds; 0: nothing."""
    code: str
    """Of the error that it was answered with."""


@dataclass(frozen=True)
class Told:
    made: list[Made]
    seconds: float

    def goodput(self, since: float = 0.0, until: float = 1e9) -> float:
        """Whole answers a second that ended in that time."""
        until = min(until, self.seconds)
        ended = [
            each for each in self.made if each.whole and since <= each.at + each.seconds < until
        ]
        return len(ended) / (until - since)

    def answers(self) -> list[Made]:
        return [each for each in self.made if each.whole]

    def refusals(self) -> list[Made]:
        return [each for each in self.made if each.status in (429, 503)]

    def statuses(self) -> Counter[int]:
        return Counter(each.status for each in self.made)


class Crowd:
    """Connections that are kept, and a new one where none is free."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._requests = itertools.cycle([_request(plan.key, body) for body in plan.bodies])
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._began = time.monotonic()
        self.made: list[Made] = []

    async def run(self) -> None:
        plan = self._plan
        async with asyncio.TaskGroup() as group:
            if plan.rate:
                for number in range(int(plan.rate * plan.seconds)):
                    due = number / plan.rate
                    await asyncio.sleep(self._began + due - time.monotonic())
                    group.create_task(self._call(due))
            else:
                for _ in range(plan.together):
                    group.create_task(self._call_on())

    async def _call_on(self) -> None:
        while (now := time.monotonic() - self._began) < self._plan.seconds:
            await self._call(now)

    async def _call(self, due: float) -> None:
        status, whole, retry_after, code = 0, False, 0, ""
        try:
            reader, writer = await self._connection()
            writer.write(next(self._requests))
            head = await reader.readuntil(b"\r\n\r\n")
            status, retry_after = int(head[9:12]), _number(head, b"retry-after")
            if b"\r\ntransfer-encoding: chunked" in head:
                whole = (await reader.readuntil(b"0\r\n\r\n")).endswith(b"[DONE]\n\n\r\n0\r\n\r\n")
            else:
                body = await reader.readexactly(_number(head, b"content-length"))
                whole = status == 200
                code = "" if whole else json.loads(body)["error"]["code"]
            if b"\r\nconnection: close" in head:
                writer.close()
            else:
                self._free.append((reader, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        took = time.monotonic() - self._began - due
        self.made.append(Made(due, took, status, whole, retry_after, code))

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._free:
            reader, writer = self._free.pop()
            if not (reader.at_eof() or writer.is_closing()):
                return reader, writer
        return await asyncio.open_connection(self._plan.host, self._plan.port, limit=2**20)


def _request(key: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n"
        b"content-length: %d\r\n\r\n%s" % (key.encode(), len(content), content)
    )


def _number(head: bytes, name: bytes) -> int:
    return int(head.partition(b"\r\n%b: " % name)[2].partition(b"\r\n")[0] or 0)


async def offered(plan: Plan) -> Told:
    """What becomes of the plan's calls, made by a process of their own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.open_loop", json.dumps(asdict(plan))),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    told, _ = await process.communicate()
    return Told([Made(*row) for row in json.loads(told)], plan.seconds)


def main() -> None:
    import uvloop

    crowd = Crowd(Plan(**json.loads(sys.argv[1])))
    uvloop.run(crowd.run())
    json.dump([astuple(each) for each in crowd.made], sys.stdout)


if __name__ == "__main__":
    main()
