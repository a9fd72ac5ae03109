"""What stands before every handler, over a real channel: callers, policies, rules and failures."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from vlinders.auth.v1 import api_keys_pb2 as pb
from vlinders.auth.v1.api_keys_pb2_grpc import (
    ApiKeyServiceServicer,
    ApiKeyServiceStub,
    add_ApiKeyServiceServicer_to_server,
)
from vlinders_kit.callers import METADATA, CallerKey, Identity, caller
from vlinders_kit.clock import ManualClock
from vlinders_kit.db import DatabaseUnavailable
from vlinders_kit.errors import (
    FailedPrecondition,
    Failure,
    InvalidRequest,
    ResourceExhausted,
    Violation,
    failure_of,
)
from vlinders_kit.rpc import connect
from vlinders_kit.testing import CALLER_KEY, Served, a_part, a_user, an_api_key, served

DOMAIN = "vlinders.auth"
SERVICE = "vlinders.auth.v1.ApiKeyService"
ASK = pb.CreateApiKeyRequest(name="laptop", permissions=["usage:read"])

LONG_AGO = CallerKey(b"the caller key of every test run", ManualClock())

Answer = Callable[[], Awaitable[Any]]


class KeyLimitReached(FailedPrecondition):
    """There are {keys} of {most} keys."""

    keys: int
    most: int


class TooFast(ResourceExhausted):
    """Slower, please."""

    retry_after = timedelta(seconds=1.5)


class Servicer(ApiKeyServiceServicer):
    """Answers as `answer` does, and fails as it fails."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    async def CreateApiKey(self, request: Any, context: Any) -> Any:
        return await self.answer()


@asynccontextmanager
async def auth(answer: Answer) -> AsyncIterator[Served]:
    service = SERVICE, add_ApiKeyServiceServicer_to_server, Servicer(answer)
    async with served(DOMAIN, service) as running:
        yield running


async def raised(error: Exception) -> grpc.aio.AioRpcError:
    """What a client gets when the handler raises `error`."""

    async def answer() -> Any:
        raise error

    async with auth(answer) as running:
        return await refused(ApiKeyServiceStub(running.channel(a_user())).CreateApiKey(ASK))


async def refused(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as told:
        await call
    return told.value


class TestFailures:
    async def test_an_error_arrives_with_its_reason_and_facts(self) -> None:
        told = failure_of(await raised(KeyLimitReached(keys=20, most=20)))

        assert told == Failure(
            grpc.StatusCode.FAILED_PRECONDITION,
            "KEY_LIMIT_REACHED",
            "There are 20 of 20 keys.",
            {"keys": "20", "most": "20"},
        )

    async def test_an_error_arrives_with_each_field_that_is_wrong(self) -> None:
        broken = (Violation("a.b[0]", "is too long"), Violation("c", "is missing"))

        assert failure_of(await raised(InvalidRequest(broken=broken))).violations == broken

    async def test_an_error_arrives_with_the_time_to_wait(self) -> None:
        assert failure_of(await raised(TooFast())).retry_after == timedelta(seconds=1.5)

    async def test_an_error_that_is_a_book_still_arrives(self) -> None:
        broken = tuple(Violation(f"m[{n}]" * 99, "x" * 5_000) for n in range(5_000))

        told = failure_of(await raised(InvalidRequest(broken=broken)))

        assert told.reason == "INVALID_REQUEST"
        assert told.violations[0].field.startswith("m[0]")

    @pytest.mark.parametrize(
        "error",
        [
            OperationalError("", {}, psycopg.OperationalError("no route to db-7.internal")),
            psycopg.OperationalError("no route to db-7.internal"),
        ],
    )
    async def test_a_database_that_is_away_is_told_as_that(self, error: Exception) -> None:
        told = failure_of(await raised(error))

        assert (told.status, told.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            DatabaseUnavailable.reason,
        )
        assert told.retry_after == timedelta(seconds=1)
        assert "db-7" not in str(told)

    async def test_a_bug_is_told_without_its_text(self) -> None:
        told = failure_of(await raised(KeyError("the secret")))

        assert (told.status, told.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL_ERROR")
        assert "secret" not in str(told)

    async def test_what_a_peer_refuses_is_handed_on(self) -> None:
        peers = await raised(KeyLimitReached(keys=20, most=20))

        assert failure_of(await raised(peers)).reason == "KEY_LIMIT_REACHED"

    async def test_a_peer_that_is_away_is_told_without_its_address(self) -> None:
        channel = connect("127.0.0.1:1", DOMAIN, Identity("gateway", CALLER_KEY))
        away = await refused(ApiKeyServiceStub(channel).CreateApiKey(ASK))
        await channel.close()

        told = failure_of(await raised(away))

        assert (told.status, told.reason) == (grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE")
        assert "127.0.0.1" not in str(told)

    async def test_a_peer_that_does_not_trust_us_is_our_own_fault(self) -> None:
        async with auth(_nothing) as running:
            distrusted = await refused(_as(running, Identity("auth", CallerKey(b"x" * 32))))

        assert failure_of(await raised(distrusted)).status == grpc.StatusCode.INTERNAL


async def _nothing() -> Any:
    return pb.CreateApiKeyResponse()


async def _as(running: Served, identity: Identity) -> Any:
    channel = connect(running.address, DOMAIN, identity)
    try:
        return await ApiKeyServiceStub(channel).CreateApiKey(ASK)
    finally:
        await channel.close()


class TestCallers:
    async def test_the_caller_is_who_the_gateway_says(self) -> None:
        shown = a_user()
        seen = []

        async def answer() -> Any:
            seen.append(caller())
            return pb.CreateApiKeyResponse()

        async with auth(answer) as running:
            await ApiKeyServiceStub(running.channel(shown)).CreateApiKey(ASK)

        assert seen == [shown]

    @pytest.mark.parametrize(
        ("token", "why"),
        [
            (None, "nobody is named"),
            (b"", "empty"),
            (b"\xff\xff", "no message"),
            (CallerKey(b"y" * 32).sign(a_user(), DOMAIN), "forged"),
            (CALLER_KEY.sign(a_user(), "vlinders.billing"), "for another service"),
            (LONG_AGO.sign(a_user(), DOMAIN), "too old"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_a_caller_that_is_not_shown_to_be_true_is_refused(
        self, token: bytes | None, why: str
    ) -> None:
        async with auth(_nothing) as running, grpc.aio.insecure_channel(running.address) as bare:
            metadata = () if token is None else ((METADATA, token),)
            error = await refused(ApiKeyServiceStub(bare).CreateApiKey(ASK, metadata=metadata))

        assert failure_of(error).reason == "CALLER_NOT_TRUSTED"

    async def test_a_key_of_a_caller_in_text_is_refused(self) -> None:
        async with auth(_nothing) as running, grpc.aio.insecure_channel(running.address) as bare:
            metadata = (("vlinders-caller", "gateway"),)
            error = await refused(ApiKeyServiceStub(bare).CreateApiKey(ASK, metadata=metadata))

        assert failure_of(error).reason == "CALLER_NOT_TRUSTED"


class TestPolicies:
    @pytest.mark.parametrize("caller", [a_part("gateway"), an_api_key()])
    async def test_who_is_not_meant_is_refused(self, caller: Any) -> None:
        async with auth(_nothing) as running:
            error = await refused(ApiKeyServiceStub(running.channel(caller)).CreateApiKey(ASK))

        assert error.code() in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.PERMISSION_DENIED,
        )

    async def test_an_rpc_that_declares_no_policy_is_denied_to_everybody(self) -> None:
        def add(servicer: Any, server: Any) -> None:
            handlers = {"Call": grpc.unary_unary_rpc_method_handler(servicer)}
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler("made.up.Service", handlers),)
            )

        async def call(request: Any, context: Any) -> Any:
            return request

        async with served(DOMAIN, ("made.up.Service", add, call)) as running:
            for who in (a_part("gateway"), a_user(), an_api_key()):
                unary = running.channel(who).unary_unary("/made.up.Service/Call")
                assert failure_of(await refused(unary(b""))).reason == "NOT_PERMITTED"

    async def test_a_request_against_the_rules_reaches_no_handler(self) -> None:
        reached = []

        async def answer() -> Any:
            reached.append(1)

        async with auth(answer) as running:
            stub = ApiKeyServiceStub(running.channel(a_user()))
            told = failure_of(await refused(stub.CreateApiKey(pb.CreateApiKeyRequest())))

        assert {violation.field for violation in told.violations} == {"name", "permissions"}
        assert reached == []


async def test_a_call_that_names_no_deadline_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlinders_kit.rpc.DEADLINE_SECONDS", 0.05)

    async with auth(asyncio.Event().wait) as running:
        error = await refused(ApiKeyServiceStub(running.channel(a_user())).CreateApiKey(ASK))

    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_health_tells_anybody() -> None:
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    service = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    add = health_pb2_grpc.add_HealthServicer_to_server
    async with (
        served(DOMAIN, (service, add, health.aio.HealthServicer())) as running,
        grpc.aio.insecure_channel(running.address) as bare,
    ):
        answer = await health_pb2_grpc.HealthStub(bare).Check(health_pb2.HealthCheckRequest())

    assert answer.status == health_pb2.HealthCheckResponse.SERVING
