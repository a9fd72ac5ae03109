"""The life of a part, as a real process: ready, told to end, drained, stopped in order."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vlinders.auth.v1 import identity_pb2 as pb
from vlinders.auth.v1.identity_pb2_grpc import (
    IdentityServiceServicer,
    IdentityServiceStub,
    add_IdentityServiceServicer_to_server,
)
from vlinders_kit import process as life
from vlinders_kit.callers import Identity
from vlinders_kit.embedded.programs import free_port
from vlinders_kit.process import Process, run
from vlinders_kit.rpc import connect
from vlinders_kit.settings import PartSettings
from vlinders_kit.testing import CALLER_KEY, a_user

SERVICE = "vlinders.auth.v1.IdentityService"
SERVING = health_pb2.HealthCheckResponse.SERVING
ASK = pb.IntrospectRequest(session_id="ses_1")


class Servicer(IdentityServiceServicer):
    """Says that a call has begun, and answers when a line comes in."""

    async def Introspect(self, request: Any, context: Any) -> pb.IntrospectResponse:
        say("begun")
        asked = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin, asked.set)
        await asked.wait()
        return pb.IntrospectResponse()


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def part(port: int, inside: int, manner: str) -> None:
    """A part that says what happens to it, and ends in the manner asked for."""

    async def saying(what: str) -> None:
        say(what)

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            say("background cancelled")

    async def deaf() -> None:
        """Loses its first cancellation, as some libraries do."""
        try:
            await forever()
        except asyncio.CancelledError:
            await forever()

    async def failing() -> None:
        raise KeyError("gone wrong")

    if manner == "impatient":
        life.DRAIN = timedelta(seconds=0.1)
    async with Process("vlinders.test", port=port, key=CALLER_KEY, metrics_port=inside) as process:
        process.serve(SERVICE, add_IdentityServiceServicer_to_server, Servicer())
        if manner == "takes turns":
            await process.offer(SERVICE, offered=False)

            async def turn() -> None:
                asked = asyncio.Event()
                asyncio.get_running_loop().add_reader(sys.stdin, asked.set)
                await asked.wait()
                asyncio.get_running_loop().remove_reader(sys.stdin)
                await process.offer(SERVICE, offered=True)
                await forever()

            process.background("turn", turn)
        process.closers.append(lambda: saying("closed first"))
        process.closers.append(lambda: saying("closed last"))
        process.drains.append(lambda: saying("drained"))
        if manner == "bad drain":
            process.drains.append(failing)
        process.background("background", {"deaf": deaf, "fails": failing}.get(manner, forever))


class Child:
    """The part as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, inside: int) -> None:
        self.process = process
        self.address = f"127.0.0.1:{port}"
        self.inside = f"http://127.0.0.1:{inside}"

    async def ready(self) -> None:
        async with grpc.aio.insecure_channel(self.address) as channel:
            ask = health_pb2.HealthCheckRequest()
            check = health_pb2_grpc.HealthStub(channel).Check
            assert (await check(ask, wait_for_ready=True)).status == SERVING

    async def probed(self) -> list[int]:
        """What probes are answered: whether it lives, whether it serves."""
        async with httpx.AsyncClient(base_url=self.inside) as http:
            return [(await http.get(path)).status_code for path in ("/healthz", "/readyz")]

    async def says(self, what: str) -> None:
        assert self.process.stdout is not None
        assert (await self.process.stdout.readline()).decode().strip() == what

    async def told(self) -> None:
        """Has a line come in."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        await self.process.stdin.drain()

    async def rest(self) -> tuple[list[str], str, int]:
        """What it says until it has ended, its log, and its exit code."""
        out, log = await self.process.communicate()
        return out.decode().splitlines(), log.decode(), self.process.returncode or 0


@asynccontextmanager
async def child(manner: str = "", port: int = 0) -> AsyncIterator[Child]:
    port, inside = port or free_port(), free_port()
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, str(port), str(inside), manner),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    )
    try:
        yield Child(process, port, inside)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_part_that_is_told_to_end_stops_in_order(number: signal.Signals) -> None:
    async with child() as part:
        await part.ready()
        part.process.send_signal(number)
        said, log, code = await part.rest()

    assert said == ["drained", "background cancelled", "closed last", "closed first"]
    assert code == 0
    assert '"event": "ready"' in log


async def test_calls_go_where_the_service_is_offered() -> None:
    async with child("takes turns") as one, child("takes turns") as other:
        await one.ready()
        await other.ready()
        target = f"ipv4:{one.address},{other.address}"
        identity = Identity("gateway", CALLER_KEY)
        async with connect(target, "vlinders.test", identity, offering=SERVICE) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await IdentityServiceStub(channel).Introspect(ASK)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

            await other.told()
            asking = IdentityServiceStub(channel).Introspect(ASK, wait_for_ready=True, timeout=30)
            call = asyncio.ensure_future(asking)
            await other.says("begun")
            await other.told()
            await call


async def test_a_call_that_runs_is_finished_and_no_other_is_taken() -> None:
    async with child() as part:
        await part.ready()
        identity = Identity("gateway", CALLER_KEY)
        channel = connect(part.address, "vlinders.test", identity)
        health = health_pb2_grpc.HealthStub(channel)
        call = asyncio.ensure_future(IdentityServiceStub(channel).Introspect(ASK, timeout=30))
        await part.says("begun")
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        assert await part.probed() == [200, 200]

        part.process.send_signal(signal.SIGTERM)
        assert (await watch.read()).status != SERVING
        assert await part.probed() == [200, 503]
        await part.says("drained")
        async with connect(part.address, "vlinders.test", identity) as late:
            with pytest.raises(grpc.aio.AioRpcError):
                await IdentityServiceStub(late).Introspect(ASK)
        assert part.process.stdin is not None
        part.process.stdin.write(b"\n")

        assert await call == pb.IntrospectResponse()
        watch.cancel()
        await channel.close()
        said, _, code = await part.rest()
    assert said == ["background cancelled", "closed last", "closed first"]
    assert code == 0


async def test_a_call_that_never_ends_does_not_keep_the_part() -> None:
    async with child("impatient") as part:
        await part.ready()
        channel = connect(part.address, "vlinders.test", Identity("gateway", CALLER_KEY))
        call = asyncio.ensure_future(IdentityServiceStub(channel).Introspect(ASK, timeout=60))
        await part.says("begun")

        part.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        await channel.close()
        said, _, code = await part.rest()

    assert said == ["drained", "background cancelled", "closed last", "closed first"]
    assert code == 0


async def test_a_background_task_that_fails_ends_the_part_for_its_supervisor() -> None:
    async with child("fails") as part:
        said, log, code = await part.rest()

    assert said == ["drained", "closed last", "closed first"]
    assert code == 1
    assert "gone wrong" in log


@pytest.mark.parametrize("manner", ["deaf", "bad drain"])
async def test_what_goes_wrong_at_the_end_keeps_nothing_from_ending(manner: str) -> None:
    async with child(manner) as part:
        await part.ready()
        part.process.send_signal(signal.SIGTERM)
        said, _, code = await part.rest()

    assert said[-2:] == ["closed last", "closed first"]
    assert code == 0


async def test_two_parts_do_not_share_a_port() -> None:
    async with child() as first:
        await first.ready()
        async with child(port=int(first.address.rpartition(":")[2])) as second:
            said, log, code = await second.rest()

    assert code != 0
    assert "cannot listen on" in log
    assert said == ["closed last", "closed first"]


class TestSettings:
    class Of(PartSettings):
        prefix = "VLINDERS_TEST"

    @pytest.fixture(autouse=True)
    def _environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith("VLINDERS_TEST")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("VLINDERS_TEST_PORT", "50051")
        monkeypatch.setenv("VLINDERS_TEST_CALLER_KEY", "ab" * 32)

    def test_come_from_the_environment(self) -> None:
        settings = self.Of.load()

        assert settings.port == 50051
        assert settings.key.verify(settings.key.sign(a_user(), "a"), "a")
        assert settings.tls is None
        assert "ab" * 32 not in repr(settings)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PORT", "many"),
            ("PORT", "0"),
            ("CALLER_KEY", "short"),
            ("CALLER_KEY", "zz" * 32),
            ("LOG_LEVEL", "loud"),
            ("TRACES_SAMPLED", "2"),
        ],
    )
    def test_that_are_wrong_are_named_and_not_told(
        self,
        name: str,
        value: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv(f"VLINDERS_TEST_{name}", value)

        with pytest.raises(SystemExit):
            self.Of.load()

        told = capsys.readouterr().err
        assert told.startswith(f"VLINDERS_TEST_{name}: ")
        assert value not in told.split(". ")[0].split("'")

    def test_of_a_certificate_go_together(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("VLINDERS_TEST_TLS_KEY", "key.pem")

        with pytest.raises(SystemExit):
            self.Of.load()

        assert "go together" in capsys.readouterr().err


if __name__ == "__main__":
    run(part(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
