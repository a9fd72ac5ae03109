"""Ourselves, whole, everything on: an API key, a rate limit, credit, metering, the ledger."""

import json
import secrets
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import yaml

from bench.programs import Door, Provider
from bench.targets.target import MODELS, Running, Target, free_port
from vlinders_embedded.running import RunningStack, bring_up, take_down

PLAN, PER_MINUTE = "bench", 6_000_000
"""A plan with a limit that no load here reaches. It is counted like any other: gateways take
slices of a hundredth of it, so that one asks Valkey every few seconds."""
GRANT = 1_000_000
"""Currency units that the wallet begins with; a request costs some ten thousandths of one."""

_PRICES = {"input_price": "0.000001", "output_price": "0.000002"}


@contextmanager
def stack(
    provider: Provider, folder: Path, models: tuple[str, ...] = MODELS, replicas: str = ""
) -> Iterator[Running]:
    """The stack of `make up` in front of the provider, and a user of it."""
    with TemporaryDirectory(prefix="vlinders-bench-") as made:
        var = Path(made) / "var"
        running = bring_up(
            var, port=free_port(), variables=_variables(provider, folder, models, replicas)
        )
        try:
            door = Door(_port(running), headers=[f"Authorization: Bearer {_new_key(running)}"])
            yield Running(door, partial(_parts, running))
        finally:
            take_down(var)


def _variables(
    provider: Provider, folder: Path, models: tuple[str, ...], replicas: str
) -> dict[str, str]:
    base = f"http://127.0.0.1:{provider.port}/v1"
    served = {name: {"upstream": name, **_PRICES} for name in models}
    file = folder / "providers.yaml"
    file.write_text(
        yaml.safe_dump({"providers": [{"name": "mock", "base_url": base, "models": served}]})
    )
    return {
        "PROVIDERS": str(file),
        "REPLICAS": replicas,
        "VLINDERS_GATEWAY_PLAN_RATES": f"free=10,operator=0,{PLAN}={PER_MINUTE}",
        "VLINDERS_BILLING_SIGNUP_GRANT": str(GRANT),
    }


def _new_key(running: RunningStack) -> str:
    """The API key of a new user, whose tenant is on the plan above."""
    name = secrets.token_hex(8)
    form = {"email": f"{name}@example.com", "password": secrets.token_urlsafe(16)}
    call = partial(_call, running.url)
    made = call("/v1/auth/register", {**form, "full_name": "Bench", "tenant_name": "Bench"})
    _move(running, made["tenant_id"])
    token = call("/v1/auth/login", form)["access_token"]
    asked = {"name": "bench", "permissions": ["inference:write"]}
    key: str = call("/v1/api-keys", asked, {"Authorization": f"Bearer {token}"})["key"]
    return key


def _move(running: RunningStack, tenant_id: str) -> None:
    """Puts the tenant on the plan, as only who runs the platform can."""
    password = json.loads((running.var / "secrets.json").read_text())["databases"]["auth"]
    address = running.access["parts"]["postgres"][0]["tcp"]
    with psycopg.connect(f"postgresql://auth:{password}@{address}/auth") as connection:
        connection.execute("UPDATE tenant SET plan = %s WHERE id = %s", (PLAN, tenant_id))


def _call(
    url: str, path: str, body: dict[str, Any], headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    heads = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode(), heads)
    with urllib.request.urlopen(request, timeout=10) as answer:
        told: dict[str, Any] = json.load(answer)["data"]
    return told


def _port(running: RunningStack) -> int:
    return int(running.url.rpartition(":")[2])


def _parts(running: RunningStack) -> dict[str, list[int]]:
    """Every process of the stack; the supervisor's children are found as each part's own."""
    return {part: running.pids(part) for part in running.access["parts"]}


TARGET = Target("ours", "**Vlinders**, everything on", stack)
