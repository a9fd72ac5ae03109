"""The edge: Envoy, as it is configured for a cluster, before a gateway that is real."""

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from vlinders_gateway.testing import bearer

from .envoys import COMPONENT, PUBLIC_RATE, Edge, container, envoy, show_certificate, whole

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("edge")]

GENERATOR = Path(__file__).parents[1] / "envoy"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}], "stream": True}


def test_what_is_committed_is_what_is_generated() -> None:
    """In a process of its own: the types of Envoy bring modules that others have, too."""
    print_all = "import edge, json; print(json.dumps(edge.written()))"
    environment = {**os.environ, "PYTHONPATH": f"{sys.prefix}/envoy"}
    done = subprocess.run(
        [sys.executable, "-c", print_all],
        cwd=GENERATOR,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    generated = json.loads(done.stdout)
    assert generated == {name: (COMPONENT / name).read_text() for name in generated}


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with whole(tmp_path) as made:
        yield made


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Edge]:
    """Envoy that has nobody behind it."""
    async with envoy(tmp_path) as made:
        async with asyncio.timeout(30), made.client() as http:
            while True:
                try:
                    await http.get("/")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        yield made


async def test_events_arrive_one_by_one_over_http2(edge: Edge) -> None:
    async with edge.client() as http:
        edge.inference.events.put_nowait("first")
        async with http.stream("POST", "/v1/chat/completions", json=ASKED) as answer:
            assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
            lines = answer.aiter_lines()
            assert await anext(lines) == "data: first"
            edge.inference.events.put_nowait("second")  # only now: nothing waits for more
            assert [await anext(lines), await anext(lines)] == ["", "data: second"]
            edge.inference.events.put_nowait(None)
            assert [line async for line in lines] == [""]


async def test_a_client_that_leaves_is_told_to_who_serves_it(edge: Edge) -> None:
    for http2, version in ((True, "HTTP/2"), (False, "HTTP/1.1")):
        edge.inference.left.clear()
        edge.inference.events.put_nowait("first")
        async with (
            edge.client(http2=http2) as http,
            http.stream("POST", "/v1/chat/completions", json=ASKED) as answer,
        ):
            assert answer.http_version == version
            await anext(answer.aiter_lines())
        async with asyncio.timeout(10):
            await edge.inference.left.wait()


async def test_a_client_cannot_say_who_it_is(edge: Edge) -> None:
    """Sign-ins are counted by the client's address: saying another does not help."""
    async with edge.client() as http:
        statuses = []
        for number in range(PUBLIC_RATE + 1):
            told = {"X-Forwarded-For": f"203.0.113.{number}", "X-Real-IP": f"203.0.113.{number}"}
            form = {"email": "a@example.com", "password": "not this one, surely"}
            statuses.append(
                (await http.post("/v1/auth/login", json=form, headers=told)).status_code
            )
    assert statuses.count(429) == 1
    assert statuses[-1] == 429


async def test_the_gateway_gets_a_path_as_it_came(edge: Edge) -> None:
    for segment in ("/", "../v1/", "%2e%2e/v1/", "./", "%2f"):
        path = f"/v1/{segment}models"
        direct = await asyncio.to_thread(raw, edge.ports["gateway"], None, path, edge.key)
        through = await asyncio.to_thread(raw, edge.ports["https"], edge.trust, path, edge.key)
        assert through == direct


async def test_what_is_refused_at_the_edge_is_refused_in_our_words(alone: Edge) -> None:
    """Over HTTP/1.1: over HTTP/2 a header that is not taken ends its stream."""
    async with alone.client(http2=False) as http:
        underscored = await http.get("/v1/models", headers={"api_key": "x"})
        many = await http.get("/v1/models", headers={f"x-{n}": "x" for n in range(100)})
        large = await http.get("/v1/models", headers={"x-large": "x" * 40_000})
    assert [answer.status_code for answer in (underscored, many, large)] == [400, 431, 431]
    for answer in (underscored, many, large):
        assert answer.json()["error"]["code"] == "invalid_request"


async def test_without_a_gateway_clients_are_told_so_and_no_credential_is_logged(
    alone: Edge,
) -> None:
    secret = "planted-" + "k" * 20
    async with alone.client() as http:
        answer = await http.get(f"/v1/models?api_key={secret}", headers=bearer(secret))
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "internal_error"
    async with asyncio.timeout(10):
        while '"path":"/v1/models"' not in alone.log():
            await asyncio.sleep(0.05)
    assert secret not in alone.log()


async def test_nothing_is_taken_without_tls(alone: Edge) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"http://localhost:{alone.ports['http']}/v1/models")
    assert answer.status_code == 308
    assert answer.headers["location"].startswith("https://localhost")


async def test_a_renewed_certificate_is_shown_without_a_restart(alone: Edge) -> None:
    before = await shown(alone)
    renewed = show_certificate(alone.folder)
    async with asyncio.timeout(10):
        while await shown(alone) == before:
            await asyncio.sleep(0.05)
    assert ssl.DER_cert_to_PEM_cert(await shown(alone)).split() == renewed.decode().split()


async def test_its_own_pages_change_nothing_and_tell_figures(alone: Edge) -> None:
    assert (await alone.own("/ready")).text == "LIVE\n"
    assert "envoy_cluster_upstream_rq_total" in (await alone.own("/stats/prometheus")).text
    for page in ("/quitquitquit", "/config_dump", "/stats/prometheus/../../config_dump"):
        assert (await alone.own(page)).status_code == 404


async def test_before_it_ends_clients_are_sent_elsewhere_and_what_runs_goes_on(edge: Edge) -> None:
    """By the command of the deployment, without its sleep."""
    *shell, script = container()["lifecycle"]["preStop"]["exec"]["command"]
    script = script.replace("sleep 35", "").replace("/9901", f"/{edge.ports['admin']}")
    edge.inference.events.put_nowait("first")
    async with (
        edge.client(http2=False) as idle,
        edge.client() as http,
        http.stream("POST", "/v1/chat/completions", json=ASKED) as answer,
    ):
        assert "connection" not in (await idle.get("/readyz")).headers
        lines = answer.aiter_lines()
        await anext(lines)
        ended = await asyncio.to_thread(
            subprocess.run, [*shell, script], capture_output=True, text=True, check=True
        )
        assert "OK" in ended.stdout
        assert (await idle.get("/readyz")).headers["connection"] == "close"
        edge.inference.events.put_nowait("second")
        assert [await anext(lines), await anext(lines)] == ["", "data: second"]
        edge.inference.events.put_nowait(None)
        assert [line async for line in lines] == [""]


async def shown(edge: Edge) -> bytes:
    """The certificate that a new connection sees."""

    def look() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", edge.ports["https"]), timeout=10) as plain,
            edge.trust.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            return secured.getpeercert(binary_form=True) or b""

    return await asyncio.to_thread(look)


def raw(port: int, trust: ssl.SSLContext | None, path: str, key: str) -> tuple[bytes, bytes]:
    """Status and error of a path that no client library touches."""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    with ExitStack() as stack:
        link = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        if trust is not None:
            link = stack.enter_context(trust.wrap_socket(link, server_hostname="localhost"))
        link.sendall(f"{head}Connection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: link.recv(65536), b""))
    status, body = answer.split(b" ", 2)[1], answer.partition(b"\r\n\r\n")[2]
    return status, body.partition(b'"request_id"')[0]
