"""The gateway as a process: comes up, serves, and ends when what it began is done."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import httpx
import pytest

from vlinders.auth.v1.sessions_pb2 import SignIn
from vlinders_gateway.server import listen
from vlinders_gateway.testing import Script, bearer, services
from vlinders_kit.embedded.programs import free_port
from vlinders_kit.pipe import Exchange
from vlinders_kit.testing import CALLER_KEY, piped

pytestmark = pytest.mark.anyio


async def answer(exchange: Exchange) -> None:
    """Inference, as far as a gateway needs it: sends back what it was asked."""
    exchange.head("application/json")
    await exchange.send(exchange.open.body)


@asynccontextmanager
async def process(
    script: Script, valkey: str, **settings: str
) -> AsyncIterator[tuple[Any, str, str]]:
    """The process, its address for clients and its address for the platform."""
    port, inside = free_port(), free_port()
    async with services(script) as parts, piped(answer) as pipes:
        told = {
            "PORT": port,
            "METRICS_PORT": inside,
            "CALLER_KEY": CALLER_KEY._secret.hex(),
            "AUTH": parts["vlinders.auth"].address,
            "BILLING": parts["vlinders.billing"].address,
            "GPU_SCHEDULER": parts["vlinders.gpu_scheduler"].address,
            "INFERENCE": parts["vlinders.inference"].address,
            "PIPES": pipes,
            "REDIS": valkey,
            "BUS": "memory:",
            **settings,
        }
        running = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "vlinders_gateway.main",
            env=os.environ | {f"VLINDERS_GATEWAY_{name}": str(told[name]) for name in told},
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield running, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{inside}"
        finally:
            if running.returncode is None:
                running.kill()
            await running.communicate()


async def until_ready(inside: str) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient() as http:
        while True:
            try:
                if (await http.get(f"{inside}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


async def test_it_serves_and_ends_when_what_it_began_is_done(script: Script, valkey: str) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> SignIn:
        begun.set()
        await may_end.wait()
        return SignIn(token_type="bearer")

    script.answers["Login"] = slow
    key = script.key()
    async with process(script, valkey) as (running, url, inside), httpx.AsyncClient() as http:
        await until_ready(inside)
        body = {"model": "m", "messages": []}
        chat = await http.post(f"{url}/v1/chat/completions", json=body, headers=bearer(key))
        assert (chat.status_code, chat.json()) == (200, body)

        login = {"email": "a@example.com", "password": "secret-enough"}
        last = asyncio.create_task(http.post(f"{url}/v1/auth/login", json=login))
        await begun.wait()
        running.terminate()
        async with asyncio.timeout(10):
            while (await http.get(f"{inside}/readyz")).status_code == 200:
                await asyncio.sleep(0.01)
        may_end.set()

        assert (await last).status_code == 200
        async with asyncio.timeout(10):
            assert await running.wait() == 0


async def test_a_host_of_its_own_has_hot_routes_as_well(script: Script, valkey: str) -> None:
    key, body = script.key(scopes=["all:write"]), {"model": "m", "messages": []}
    settings = {"HOSTS": "api.massrouter.example=massrouter"}
    async with process(script, valkey, **settings) as (_, url, inside), httpx.AsyncClient() as http:
        await until_ready(inside)
        for host, path, status in (
            ("api.massrouter.example", "/api/v1/chat/completions", 200),
            ("api.massrouter.example:80", "/api/v1/chat/completions?x=1", 200),
            ("api.massrouter.example", "/massrouter/api/v1/chat/completions", 404),
            ("api.massrouter.example", "/v1/chat/completions", 404),
            ("127.0.0.1", "/massrouter/api/v1/chat/completions", 200),
            ("127.0.0.1", "/api/v1/chat/completions", 404),
        ):
            headers = bearer(key) | {"Host": host}
            answer = await http.post(f"{url}{path}", json=body, headers=headers)
            assert answer.status_code == status, (host, path)
            assert status != 200 or answer.json() == body


async def test_its_figures_name_operations_and_no_client_text(script: Script, valkey: str) -> None:
    async with process(script, valkey) as (_, url, inside), httpx.AsyncClient() as http:
        await until_ready(inside)
        for path in ("/v1/models", "/v1/secret-of-a-client"):
            await http.get(f"{url}{path}")
        figures = (await http.get(f"{inside}/metrics")).text
        assert 'operation="ListModels",service="gateway",status="401"' in figures
        assert "secret-of-a-client" not in figures
        assert (await http.get(f"{url}/metrics")).status_code == 404


def test_a_client_that_vanishes_is_noticed_by_the_kernel() -> None:
    silence = timedelta(seconds=60)
    with contextlib.closing(listen("127.0.0.1", 0, shared=False, silence=silence)) as listener:
        listener.setblocking(True)
        with socket.create_connection(listener.getsockname()[:2]):
            accepted, _ = listener.accept()
    with accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        first, between, probes = (
            accepted.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
    assert first + between * probes == 60


def test_it_does_not_carry_what_only_databases_need() -> None:
    loaded = "import sys, vlinders_gateway.main; print('sqlalchemy' in sys.modules)"

    told = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True)

    assert told.stdout.strip() == b"False"
