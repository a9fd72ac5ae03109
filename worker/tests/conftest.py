"""What the tests of the worker share: a scheduler that does as it is told, and agents on hosts."""

import asyncio
import base64
import hashlib
import hmac
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import yaml

from vlinders.gpu_scheduler.v1 import workers_pb2 as pb
from vlinders.gpu_scheduler.v1.picks_pb2 import SignedTicket, Ticket
from vlinders.gpu_scheduler.v1.workers_pb2_grpc import (
    WorkerServiceServicer,
    add_WorkerServiceServicer_to_server,
)
from vlinders_kit.embedded.programs import free_port
from vlinders_worker import identity
from vlinders_worker.agent import Agent
from vlinders_worker.engines import configuration
from vlinders_worker.settings import WorkerSettings

JOIN_TOKEN = "join-me"


def hub_now_ms() -> int:
    """The hub's clock has an instant of its own."""
    return int(time.monotonic() * 1000) + 5_000_000


def signed_ticket(*, key: bytes, **said: Any) -> str:
    ticket = Ticket(**said).SerializeToString()
    signature = hmac.new(key, ticket, hashlib.sha256).digest()
    signed = SignedTicket(ticket=ticket, signature=signature).SerializeToString()
    return base64.urlsafe_b64encode(signed).decode().rstrip("=")


@pytest.fixture
def sign() -> Callable[..., str]:
    """A ticket with what is given in it, as it travels."""
    return signed_ticket


@dataclass
class ScriptedScheduler(WorkerServiceServicer):
    """Welcomes whoever connects, renews leases while `renews`, and keeps all that it hears."""

    lease: timedelta = timedelta(seconds=15)
    beat_period: timedelta = timedelta(milliseconds=50)
    renews: bool = True
    welcomes: bool = True
    refused: int = 0
    epoch: int = 0
    heard: list[pb.WorkerMessage] = field(default_factory=list)
    hellos: list[pb.Hello] = field(default_factory=list)
    port: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _commands: asyncio.Queue[pb.HubMessage | None] = field(default_factory=asyncio.Queue)
    _slots: dict[str, pb.Slot] = field(default_factory=dict)

    @property
    def key(self) -> bytes:
        return hashlib.sha256(b"key of epoch %d" % self.epoch).digest()

    async def Connect(self, requests: Any, context: Any) -> AsyncIterator[pb.HubMessage]:
        shown = dict(context.invocation_metadata())
        if shown.get("vlinders-join-token") != JOIN_TOKEN or not self.welcomes:
            async with self._changed:
                self.refused += 1
                self._changed.notify_all()
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "The join token is not valid.")
        first = await anext(requests)
        self.epoch += 1
        self.hellos.append(first.hello)
        self._commands = commands = asyncio.Queue()
        await self._hear(first)
        yield pb.HubMessage(welcome=self._welcome())
        listening = asyncio.create_task(self._listen(requests, commands))
        try:
            while (command := await commands.get()) is not None:
                yield command
        finally:
            listening.cancel()

    def drain(self, deadline: timedelta) -> None:
        drain = pb.Drain()
        drain.deadline.FromTimedelta(deadline)
        self._commands.put_nowait(pb.HubMessage(drain=drain))

    def hang_up(self) -> None:
        self._commands.put_nowait(None)

    async def until(self, holds: Callable[[], object]) -> None:
        """Waits until `holds`, looked at with each message that comes."""
        async with asyncio.timeout(30), self._changed:
            await self._changed.wait_for(holds)

    async def until_state(self, slot_id: str, state: int) -> pb.Slot:
        await self.until(lambda: slot_id in self._slots and self._slots[slot_id].state == state)
        return self._slots[slot_id]

    async def until_ready(self, slot_id: str) -> pb.Slot:
        return await self.until_state(slot_id, pb.Slot.STATE_READY)

    def all(self, kind: str) -> list[Any]:
        return [getattr(heard, kind) for heard in self.heard if heard.HasField(kind)]

    def ticket(self, slot_id: str, request_id: str = "", **given: Any) -> str:
        said: dict[str, Any] = {
            "key": self.key,
            "worker_id": self.hellos[-1].worker_id,
            "slot_id": slot_id,
            "epoch": self.epoch,
            "request_id": request_id,
            "expires_at_hub_ms": hub_now_ms() + 5_000,
        }
        return signed_ticket(**{**said, **given})

    def _welcome(self) -> pb.Welcome:
        welcome = pb.Welcome(epoch=self.epoch, ticket_key=self.key, hub_clock_ms=hub_now_ms())
        welcome.lease.FromTimedelta(self.lease)
        welcome.beat_period.FromTimedelta(self.beat_period)
        return welcome

    async def _listen(self, requests: Any, commands: asyncio.Queue[Any]) -> None:
        async for message in requests:
            if message.HasField("beat") and self.renews:
                beat = message.beat
                lease = pb.Lease(beat_seq=beat.seq, epoch=beat.epoch, hub_clock_ms=hub_now_ms())
                commands.put_nowait(pb.HubMessage(lease=lease))
            await self._hear(message)
        commands.put_nowait(None)

    async def _hear(self, message: pb.WorkerMessage) -> None:
        async with self._changed:
            self.heard.append(message)
            kind = message.WhichOneof("kind")
            inventory = message.hello.inventory if kind == "hello" else message.inventory
            self._slots.update({slot.id: slot for slot in inventory.slots})
            self._changed.notify_all()


@dataclass
class Host:
    """A host with an agent, and inference beside it."""

    scheduler: ScriptedScheduler
    agent: Agent
    url: str
    http: aiohttp.ClientSession
    folder: Path

    def headers(self, request_id: str, slot_id: str, **ticket: Any) -> dict[str, str]:
        shown = self.scheduler.ticket(slot_id, request_id, **ticket)
        return {"vlinders-ticket": shown, "x-request-id": request_id}

    def ask(
        self,
        request_id: str,
        slot_id: str = "numbered",
        path: str = "/v1/chat/completions",
        headers: dict[str, str] | None = None,
        **body: Any,
    ) -> Any:
        """The request as inference sends it; `async with` it for the response."""
        chat = {"model": "asked", "messages": [{"role": "user", "content": "Hello"}]}
        said = {"user": request_id, **(chat if path.endswith("completions") else {}), **body}
        shown = headers or self.headers(request_id, slot_id)
        return self.http.post(self.url + path, json=said, headers=shown)

    async def cancel(self, request_id: str, ticket: str) -> int:
        path = f"/v1/requests/{request_id}/cancel"
        async with self.http.post(self.url + path, headers={"vlinders-ticket": ticket}) as told:
            return told.status

    async def shown(self, request_id: str) -> dict[str, Any]:
        """What the agent says of a request, once it has ended."""
        await self.scheduler.until(
            lambda: any(
                request_id in slot.finished_request_ids
                for load in self.scheduler.all("load")
                for slot in load.slots
            )
        )
        async with self.http.get(f"{self.url}/v1/requests/{request_id}") as told:
            shown: dict[str, Any] = await told.json()
            return shown

    def produced(self, request_id: str) -> int:
        """The truth: what the numbered engine wrote down itself."""
        file = self.folder / request_id
        return len(file.read_text().split()) if file.exists() else 0


Hosts = Callable[..., AbstractAsyncContextManager[Host]]


@pytest.fixture
async def scheduler() -> AsyncIterator[ScriptedScheduler]:
    async with scripted_scheduler() as scripted:
        yield scripted


@pytest.fixture
async def another_scheduler() -> AsyncIterator[ScriptedScheduler]:
    async with scripted_scheduler() as scripted:
        yield scripted


@asynccontextmanager
async def scripted_scheduler() -> AsyncIterator[ScriptedScheduler]:
    scripted = ScriptedScheduler()
    server = grpc.aio.server()
    add_WorkerServiceServicer_to_server(scripted, server)
    scripted.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield scripted
    await server.stop(0)


@pytest.fixture
def numbered(tmp_path: Path) -> dict[str, Any]:
    """The configuration of an engine that writes numbered tokens."""
    script = str(Path(__file__).with_name("numbered_engine.py"))
    return {
        "engine": "command",
        "id": "numbered",
        "model": "numbered",
        "command": [sys.executable, script, "{port}", str(tmp_path)],
        "parallel": 8,
    }


@pytest.fixture
def host(scheduler: ScriptedScheduler, tmp_path: Path) -> Hosts:
    """`async with host(engine, …)`: an agent with these engines, its first slot ready."""

    at = {"scheduler": f"127.0.0.1:{scheduler.port}"}

    @asynccontextmanager
    async def serving(
        *engines: dict[str, Any], ready: bool = True, **settings: Any
    ) -> AsyncIterator[Host]:
        given = told_settings(tmp_path, engines, {**at, **settings})
        with identity.claimed(given.state_dir) as who:
            agent = Agent(given, who, configuration.load(given.engines), pretended=())
            told = asyncio.Event()
            async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
                group.create_task(agent.serve(told))
                try:
                    if ready:
                        await scheduler.until(lambda: scheduler.hellos)
                        await scheduler.until_ready(engines[0]["id"])
                        await scheduler.until(lambda: agent.lease.holds)
                    yield Host(scheduler, agent, given.reached_at, http, tmp_path)
                finally:
                    told.set()

    return serving


def told_settings(folder: Path, engines: Any, settings: dict[str, Any]) -> WorkerSettings:
    listed = folder / "engines.yaml"
    listed.write_text(yaml.safe_dump({"engines": list(engines)}))
    return WorkerSettings(
        **{
            "join_token": JOIN_TOKEN,
            "engines": listed,
            "state_dir": folder / "state",
            "port": free_port(),
            "drain_seconds": 0,
            "show_requests": True,
            **settings,
        }
    )


@pytest.fixture
def events() -> Callable[[Any], Awaitable[list[Any]]]:
    """Reads a streamed answer to its end: each event decoded, `[DONE]` as it is."""

    async def read(response: Any) -> list[Any]:
        text = (await response.read()).decode()
        datas = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
        return [data if data == "[DONE]" else json.loads(data) for data in datas]

    return read
