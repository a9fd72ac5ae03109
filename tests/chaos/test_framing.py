"""Framing and Host tricks: what is authorized is what is dispatched, and nothing else is.

Thousands of requests, made by chance, go to a gateway over sockets. Some hide another request where
only a parser that is wrong would find it. Behind the gateway is noted what is dispatched.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import pytest
from google.protobuf.message import Message

from tests.chaos.hostile_requests import CANARY, Request, twisted
from tests.chaos.scale import scaled
from vlinders.api.v1.caller_pb2 import Caller
from vlinders.api.v1.options_pb2 import ROLE_OPERATOR, PageInfo
from vlinders_gateway.admission import Admission
from vlinders_gateway.dialects import CANONICAL
from vlinders_gateway.hot import HotExchange, Step
from vlinders_gateway.operations import Operation, named
from vlinders_gateway.testing import NO_RATES, Running, Script, gateway
from vlinders_kit.errors import AppError
from vlinders_kit.policies import require
from vlinders_kit.testing import a_user, an_api_key
from vlinders_kit.testing.figures import Figure

pytestmark = pytest.mark.anyio

REQUESTS = scaled(1_000, 5_000)
SEED = 20_261_121

BODIES: dict[str, Any] = {
    "Login": {"email": "a@example.com", "password": "a long password"},
    "CreateApiKey": {"name": "laptop", "permissions": ["usage:read"]},
    "UpdateMyAccount": {"full_name": "Ada"},
    "CreateChatCompletion": {"model": "m", "messages": [{"role": "user", "content": "x"}]},
}
"""Of the operations that have one. The others are sent one all the same."""

NAMES = (*BODIES, "GetMyAccount", "ListApiKeys", "ListModels", "ListWorkers", "GetMyWallet")


@dataclass
class Door:
    """A gateway behind which is noted what comes through: the operation, and for whom."""

    running: Running
    callers: dict[bytes, Caller]
    """Credential → whoever shows it."""
    through: list[tuple[str, str]] = field(default_factory=list)

    def take(self) -> list[tuple[str, str]]:
        """What has come through since it was looked at last."""
        asked, self.running.script.asked = self.running.script.asked, []
        came = [(name, who.account_id) for name, _, who in asked if name != "Introspect"]
        came += self.through
        self.through = []
        return came


class Noted:
    """Answers a hot route, once whoever asks is admitted, by noting it."""

    def __init__(self, operation: Operation, admission: Admission, door: Door) -> None:
        self._operation = operation
        self._admission = admission
        self._door = door

    def admit(self, exchange: HotExchange) -> Step | None:
        exchange.principal = self._admission.at_once(exchange, self._operation)
        return None if exchange.principal is not None else partial(self._admit, exchange)

    async def _admit(self, exchange: HotExchange) -> None:
        exchange.principal = await self._admission.admit(exchange, self._operation)

    def serve(self, exchange: HotExchange, body: bytes) -> None:
        assert exchange.principal is not None
        json.loads(body)
        self._door.through.append((self._operation.name, exchange.principal.caller.account_id))
        exchange.answer(200, b"{}")


@pytest.fixture
async def door(valkey: str) -> AsyncIterator[Door]:
    script = Script()
    everybody = (
        a_user(plan="operator"),
        a_user(plan="operator", roles=[ROLE_OPERATOR]),
        an_api_key(plan="operator"),
    )
    callers = {script.admit(who).encode(): who for who in everybody}
    for name in NAMES:
        answer = _answer(named(name).response)
        script.answers[name] = answer
    script.answers["RevokeApiKey"] = _answer(named("RevokeApiKey").response)
    async with gateway(script, valkey, rates=NO_RATES) as running:
        door = Door(running, callers)
        chat = named("CreateChatCompletion")
        admission = Admission(running.identities, running.limits, NO_RATES)
        running.edge.serve_hot(CANONICAL, chat, chat.place, Noted(chat, admission, door))
        yield door


def _answer(kind: Any) -> Message:
    made: Message = kind()
    if "page" in kind.DESCRIPTOR.fields_by_name:
        made.page.CopyFrom(PageInfo())  # type: ignore[attr-defined]
    return made


def made(door: Door, chance: Random) -> Request:
    operation = named(chance.choice(NAMES))
    method, path = operation.place.split(" ")
    credential = chance.choice([b"", b"nonsense", *door.callers])
    victim = chance.choice([*door.callers])
    canary = b"DELETE /v1/api-keys/%s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n\r\n" % (
        CANARY.encode(),
        victim,
    )
    fields = BODIES.get(operation.name, {}) | {"canary": canary.decode()}
    body = json.dumps(fields).encode()
    if operation.name not in BODIES:
        body = canary  # nobody reads it
    return twisted(Request(method, path, operation.name, credential, body, canary), chance)


def expected(request: Request, door: Door) -> list[tuple[str, str]]:
    """What must come through, by the contracts' policies."""
    operation = named(request.operation)
    if not request.expected:
        return []
    if operation.public:
        return [(operation.name, "")]
    caller = door.callers.get(request.credential)
    if caller is None:
        return []
    try:
        require(operation.policy, caller)
    except AppError:
        return []
    return [(operation.name, caller.account_id)]


async def spoken(port: int, request: Request) -> list[int]:
    """The status of every answer to it that comes before the answer to another one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request.wire())
        first = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        rest = await reader.read()
    except asyncio.IncompleteReadError as closed:
        first, rest = closed.partial, b""
    except ConnectionError:  # it has closed, which is all it has to say
        rest = b""
    finally:
        writer.close()
    heads = (first + rest).split(b"HTTP/1.1 ")[1:]
    statuses = [int(head[:3]) for head in heads if b"alive" not in head]
    return [status for status in statuses if status != 100]


async def test_what_is_authorized_is_what_is_dispatched(door: Door, figure: Figure) -> None:
    chance = Random(SEED)
    wrong = []
    through = 0
    for _ in range(REQUESTS):
        request = made(door, chance)
        async with asyncio.timeout(20):
            statuses = await spoken(door.running.port, request)
        came = door.take()
        through += len(came)
        if came != expected(request, door) or len(statuses) > 1 or max(statuses, default=0) >= 500:
            wrong.append((request.twists, request.operation, statuses, came, request.wire()[:200]))
    figure("framing and Host tricks, dispatched otherwise than authorized", len(wrong), must="0")
    assert wrong == []
    assert REQUESTS / 10 < through < REQUESTS / 2  # neither all honest nor all refused
