"""How soon what auth decides holds on every gateway: with the bus, and without."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from google.protobuf.message import Message

from vlinders.api.v1 import options_pb2 as api
from vlinders.auth.v1 import events_pb2 as events
from vlinders.auth.v1.identity_pb2 import IntrospectResponse
from vlinders_gateway import voiding
from vlinders_gateway.identity import Identities
from vlinders_gateway.refusals import AccountDisabled, InvalidCredential
from vlinders_gateway.testing import CredentialNotFound, Script, services, token_keys
from vlinders_gateway.tokens import Keys, Tokens
from vlinders_kit import api_keys
from vlinders_kit.bus import Bus, Envelope, open_bus
from vlinders_kit.clock import ManualClock
from vlinders_kit.errors import PermissionDenied
from vlinders_kit.ids import uuid7
from vlinders_kit.testing import Cluster, a_user, an_api_key
from vlinders_kit.testing.figures import Figure

pytestmark = pytest.mark.anyio

GATEWAYS = 4
SECONDS = 1.0
WITHOUT_EVENTS = 30.0


class Disabled(PermissionDenied):
    """The account is deactivated."""


Disabled.reason = "ACCOUNT_DISABLED"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(moment=datetime.now(UTC))


@pytest.fixture
def bus_url(postgres: Cluster) -> Iterator[str]:
    with postgres.database("vlinders_kit.bus") as url:
        yield url


@pytest.fixture
async def gateways(script: Script, clock: ManualClock) -> AsyncIterator[list[Identities]]:
    token_keys(script)
    async with services(script) as parts:
        auth = parts["vlinders.auth"].channel()
        tokens = Tokens(Keys(auth, clock), issuer="vlinders", audience="vlinders", clock=clock)
        yield [Identities(auth, tokens, clock=clock) for _ in range(GATEWAYS)]


@pytest.fixture
async def bus(bus_url: str, gateways: list[Identities]) -> AsyncIterator[Bus]:
    """Auth's end of the bus; every gateway listens at one of its own."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        ends = [open_bus(bus_url, f"gateway-{number}") for number in range(GATEWAYS + 1)]
        for end in ends:
            stack.push_async_callback(end.close)
        listening = []
        for end, identities in zip(ends, gateways, strict=False):
            started = asyncio.Event()
            hear = end.broadcast(voiding.TOPICS, identities.hear, started=started)
            listening.append(group.create_task(hear))
            await started.wait()
        yield ends[-1]
        for task in listening:
            task.cancel()


class Decision:
    """A credential that is known everywhere, and what auth decides of it."""

    def __init__(self, name: str, script: Script) -> None:
        self.who = who = an_api_key()
        self.key = script.admit(who)
        demoted = an_api_key()
        demoted.CopyFrom(who)
        demoted.roles[:] = [api.ROLE_VIEWER]
        told = {"account_id": who.account_id}
        decisions: dict[str, tuple[Message, Any]] = {
            "revoked": (
                events.ApiKeyRevoked(api_key_id=who.api_key_id, **told),
                CredentialNotFound(),
            ),
            "disabled": (events.AccountDisabled(**told), Disabled()),
            "demoted": (events.RolesChanged(**told), IntrospectResponse(caller=demoted)),
        }
        self.event, self._answer = decisions[name]
        self._demoted = list(demoted.roles)
        self._script, self._digest = script, api_keys.digest(self.key)

    def take(self) -> None:
        """From now on auth says so to whoever asks."""
        self._script.credentials[self._digest] = self._answer

    async def holds(self, identities: Identities) -> bool:
        try:
            found = await identities.resolve(f"Bearer {self.key}".encode(), "vlinders")
        except (InvalidCredential, AccountDisabled):
            return True
        return list(found.caller.roles) == self._demoted


DECISIONS = ("revoked", "disabled", "demoted")


def envelope(event: Message, key: str) -> Envelope:
    topic, kind = voiding.TOPICS[0], event.DESCRIPTOR.full_name
    return Envelope(uuid7(), topic, key, kind, event.SerializeToString())


async def seconds_until(holds: Callable[[], Any]) -> float:
    begun = time.monotonic()
    while not await holds():
        assert time.monotonic() < begun + 30
        await asyncio.sleep(0.005)
    return time.monotonic() - begun


@pytest.mark.parametrize("name", DECISIONS)
async def test_what_auth_decides_holds_on_every_gateway_within_a_second(
    gateways: list[Identities], bus: Bus, script: Script, figure: Figure, name: str
) -> None:
    decision = Decision(name, script)
    for identities in gateways:
        assert not await decision.holds(identities)

    decision.take()
    await bus.send([envelope(decision.event, decision.who.account_id)])
    took = sum([await seconds_until(partial(decision.holds, each)) for each in gateways])

    figure(f"{name}, on the last of {GATEWAYS} gateways", took, "s", must="≤ 1 s")
    assert took <= SECONDS


async def test_an_account_that_is_enabled_is_let_in_on_every_gateway_within_a_second(
    gateways: list[Identities], bus: Bus, script: Script
) -> None:
    decision = Decision("disabled", script)
    let_in = script.credentials[api_keys.digest(decision.key)]
    decision.take()
    for identities in gateways:
        assert await decision.holds(identities)

    script.credentials[api_keys.digest(decision.key)] = let_in
    enabled = events.AccountEnabled(account_id=decision.who.account_id)
    await bus.send([envelope(enabled, decision.who.account_id)])

    async def everywhere() -> bool:
        return not any([await decision.holds(identities) for identities in gateways])

    assert await seconds_until(everywhere) <= SECONDS


@pytest.mark.parametrize("name", DECISIONS)
async def test_without_the_bus_it_holds_within_half_a_minute(
    gateways: list[Identities], clock: ManualClock, script: Script, name: str
) -> None:
    decision = Decision(name, script)
    for identities in gateways:
        assert not await decision.holds(identities)
        clock.advance(1.0)
    decision.take()

    clock.advance(WITHOUT_EVENTS - 1.0)

    assert [await decision.holds(identities) for identities in gateways] == [True] * GATEWAYS


async def test_a_session_that_ends_is_over_on_every_gateway_within_a_second(
    gateways: list[Identities], bus: Bus, script: Script
) -> None:
    who = a_user()
    shown = f"Bearer {token_keys(script).sign(who)}".encode()
    script.credentials[who.session_id] = IntrospectResponse(caller=who)
    for identities in gateways:
        await identities.resolve(shown, "vlinders")

    del script.credentials[who.session_id]
    ended = events.SessionRevoked(session_id=who.session_id, account_id=who.account_id)
    await bus.send([envelope(ended, who.account_id)])

    async def everywhere() -> bool:
        return not any(identities.known(shown, "vlinders") for identities in gateways)

    assert await seconds_until(everywhere) <= SECONDS
