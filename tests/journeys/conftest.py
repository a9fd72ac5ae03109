"""The stack of the journeys: two gateways, two replicas of inference, two providers of our own."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest
import yaml
from anyio.from_thread import start_blocking_portal

from services.auth.tests.authorization_server import Person, PlayedProvider, played
from tests.platform import GRANT, NANOS, Platform
from tests.upstreams import Upstream, upstream
from vlinders_embedded.running import bring_up, take_down
from vlinders_kit.embedded.programs import free_port
from vlinders_kit.testing.spans import Collector, collector

TRIAL_RATE = 5
"""Requests a minute of the plan `trial`."""

FIRST = (
    "breaks",
    "breaks-at-once",
    "errs",
    "fails",
    "ladder",
    "left",
    "locked",
    "plain",
    "refuses",
    "silent-on-usage",
    "throttles",
    "unpriced",
    "wild",
)
"""Models of the first provider, one for each way to fail: a breaker opens for a model alone."""
SHARED = ("ladder", "breaks-at-once")
"""Those that the second provider has too."""

PRICES = {"input_price": "0.000001", "output_price": "0.000002"}
INPUT, OUTPUT = 1_000, 2_000
"""The same in nanos."""

CALLS = 8
"""How many calls of the model `metered` a new tenant can pay for."""
METERED_TOKENS = 1_000
_METERED = {"input_price": 0, "output_price": f"{GRANT / NANOS / CALLS / METERED_TOKENS:.9f}"}
_VECTORS = {"input_price": "0.000001", "max_tokens": 0, "embeddings": True}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process runs all journeys: the providers that they script are its own."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("journeys"))
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture(scope="session")
def upstreams() -> Iterator[tuple[Upstream, Upstream]]:
    with (
        upstream("planted-key-of-the-first-provider") as first,
        upstream("planted-key-of-the-second-provider") as second,
    ):
        yield first, second


@pytest.fixture(scope="session")
def traces() -> Iterator[Collector]:
    """What gets the spans of every request."""
    with collector() as sink:
        yield sink


@pytest.fixture(scope="session")
def oauth_providers() -> Iterator[dict[str, PlayedProvider]]:
    """Where people sign in who have an account elsewhere; on a thread, as upstreams are."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(played("", Person())) as providers,
    ):
        yield providers


@pytest.fixture(scope="session")
async def platform(
    upstreams: tuple[Upstream, Upstream],
    oauth_providers: dict[str, PlayedProvider],
    traces: Collector,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Platform]:
    folder = tmp_path_factory.mktemp("journeys")
    (folder / "providers.yaml").write_text(yaml.safe_dump({"providers": _providers(*upstreams)}))
    clients = {name: provider.registered() for name, provider in oauth_providers.items()}
    (folder / "oauth.json").write_text(json.dumps(clients))
    stack = await anyio.to_thread.run_sync(_bring_up, folder, traces)
    try:
        async with httpx.AsyncClient(base_url=stack.url, timeout=30) as http:
            secrets = {upstream.api_key for upstream in upstreams}
            secrets |= {stack.api_key, stack.access["admin_password"]}
            yield Platform(stack, http, *upstreams, secrets)
    finally:
        await anyio.to_thread.run_sync(take_down, folder / "var")


def _bring_up(folder: Path, traces: Collector) -> Any:
    variables = {
        "REPLICAS": "gateway=2 inference=2",
        "PROVIDERS": str(folder / "providers.yaml"),
        "KEY_OF_SECOND": "planted-key-of-the-second-provider",
        "VLINDERS_AUTH_OAUTH_FILE": str(folder / "oauth.json"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": traces.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "VLINDERS_GATEWAY_TRACES_SAMPLED": "1",
        "VLINDERS_BILLING_SIGNUP_GRANT": str(GRANT // NANOS),
        "VLINDERS_GATEWAY_PLAN_RATES": f"free=0,trial={TRIAL_RATE},operator=0",
        "VLINDERS_GATEWAY_PUBLIC_RATE": "0",
        "VLINDERS_GATEWAY_RATES": "0",
        "VLINDERS_GATEWAY_ANONYMOUS_RATES": "0",
        "VLINDERS_GATEWAY_LOGGED": "1",
        "VLINDERS_WORKER_SHOW_REQUESTS": "1",
    }
    return bring_up(folder / "var", port=free_port(), variables=variables)


def _providers(first: Upstream, second: Upstream) -> list[Mapping[str, Any]]:
    models: dict[str, Any] = {name: {"upstream": f"{name}-2026", **PRICES} for name in FIRST}
    models |= {"metered": _METERED, "vectors": _VECTORS}
    locked = {"name": "locked", "base_url": first.base_url, "api_key": "planted-key-that-is-wrong"}
    return [
        {
            "name": "first",
            "base_url": first.base_url,
            "api_key": first.api_key,
            "models": {name: row for name, row in models.items() if name != "locked"},
        },
        {
            "name": "second",
            "base_url": second.base_url,
            "api_key_env": "KEY_OF_SECOND",
            "priority": 1,
            "models": {name: models[name] for name in SHARED},
        },
        {**locked, "models": {"locked": models["locked"]}},
    ]
