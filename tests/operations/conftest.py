"""What operators see of the platform: one stack that tells everything, and load on it.

Its parts show each other certificates, and take nobody who shows none.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest
import yaml

from tests.platform import Platform, User, chat, eventually
from tests.upstreams import Upstream, upstream
from vlinders_embedded.parts import PARTS
from vlinders_embedded.running import RunningStack, bring_up, take_down
from vlinders_kit.embedded.programs import free_port
from vlinders_kit.testing.certificates import Authority
from vlinders_kit.testing.spans import Collector, collector

PRICES = {"input_price": "0.000001", "output_price": "0.000002"}
MODELS = ("plain", "fails", "refuses")
"""Models of the provider; `own` is that of the worker, whose engine is a scripted server too."""

ENDS = {"plain": 200, "own": 200, "fails": 502, "refuses": 400, "nowhere": 404}
"""Model → status of what is asked of it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process runs all of them: the stack, the collector and the providers are its own."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("operations"))
            item.add_marker(pytest.mark.timeout(180))


@dataclass
class Operated:
    platform: Platform
    collector: Collector
    engine: Upstream
    """Behind the worker."""

    @property
    def stack(self) -> RunningStack:
        return self.platform.stack


@pytest.fixture(scope="session")
def scripted() -> Iterator[tuple[Upstream, Upstream, Collector]]:
    with (
        upstream("planted-key-of-the-provider") as provider,
        upstream("planted-key-of-the-engine") as engine,
        collector() as sink,
    ):
        provider.plays("fails", status=500)
        provider.plays("refuses", status=400, error={"error": {"code": "invalid_value"}})
        yield provider, engine, sink


@pytest.fixture(scope="session")
async def operated(
    scripted: tuple[Upstream, Upstream, Collector], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Operated]:
    provider, engine, sink = scripted
    folder = tmp_path_factory.mktemp("operations")
    stack = await anyio.to_thread.run_sync(_up, folder, provider, engine, sink)
    try:
        async with httpx.AsyncClient(base_url=stack.url, timeout=30) as http:
            secrets = {provider.api_key, engine.api_key, stack.api_key}
            platform = Platform(stack, http, provider, engine, secrets)
            yield Operated(platform, sink, engine)
    finally:
        await anyio.to_thread.run_sync(take_down, folder / "var")


@pytest.fixture(scope="session")
async def user(operated: Operated) -> User:
    return await operated.platform.sign_up()


@pytest.fixture(scope="session")
async def loaded(operated: Operated, user: User) -> User:
    """Load of every kind: answers, streams, embeddings, refusals and failures, all settled."""
    key = (await user.key())["key"]
    headers = {"Authorization": f"Bearer {key}"}
    post = operated.platform.http.post
    for _ in range(3):
        for model, status in ENDS.items():
            answer = await post("/v1/chat/completions", json=chat(model), headers=headers)
            assert answer.status_code == status, answer.text
        for model in ("plain", "own"):
            body = chat(model, stream=True)
            assert (await post("/v1/chat/completions", json=body, headers=headers)).is_success
    assert (await post("/v1/embeddings", json={"model": "plain", "input": "x"})).status_code == 401

    async def settled() -> bool:
        return len(await user.records()) >= 12

    await eventually(settled)
    return user


def _up(folder: Path, provider: Upstream, engine: Upstream, sink: Collector) -> RunningStack:
    files: dict[str, Any] = {
        "PROVIDERS": {
            "providers": [
                {
                    "name": "somebody",
                    "base_url": provider.base_url,
                    "api_key": provider.api_key,
                    "models": {name: {"upstream": name, **PRICES} for name in MODELS},
                }
            ]
        },
        "ENGINES": {
            "engines": [
                {
                    "id": "slot",
                    "engine": "external",
                    "model": "own",
                    "url": engine.base_url,
                    "api_key_env": "KEY_OF_ENGINE",
                    "counts": "deltas",
                    "context_length": 4096,
                    "parallel": 4,
                }
            ]
        },
        "CATALOGUE": {
            "models": {
                "own": {"worker_model": "own", "context_length": 4096, "max_tokens": 64, **PRICES}
            }
        },
    }
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint,
        "KEY_OF_ENGINE": engine.api_key,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "VLINDERS_GATEWAY_TRACES_SAMPLED": "1",
        "VLINDERS_GATEWAY_TRUSTED_PROXIES": "127.0.0.1/32",
        "VLINDERS_GATEWAY_PLAN_RATES": "free=0,operator=0",
        "VLINDERS_GATEWAY_PUBLIC_RATE": "0",
        "VLINDERS_BILLING_SIGNUP_GRANT": "10",
        "VLINDERS_WORKER_SHOW_REQUESTS": "1",
    }
    variables |= _certificates(folder)
    for name, told in files.items():
        path = folder / f"{name.lower()}.yaml"
        path.write_text(yaml.safe_dump(told))
        variables[name] = str(path)
    return bring_up(folder / "var", port=free_port(), variables=variables)


def _certificates(folder: Path) -> dict[str, str]:
    """Variables of certificates, one for each part."""
    authority, variables = Authority(), dict[str, str]()
    for part in (each.replace("-", "_") for each in PARTS):
        shown = authority.part(f"vlinders.{part}")
        files = {"CERTIFICATE": shown.certificate, "KEY": shown.key, "AUTHORITY": shown.authority}
        for name, pem in files.items():
            path = folder / f"{part}-{name.lower()}.pem"
            path.write_bytes(pem)
            variables[f"VLINDERS_{part.upper()}_TLS_{name}"] = str(path)
    return variables
