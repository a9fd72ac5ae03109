"""The stack of chaos: two gateways, two replicas of inference, three workers, and a real Kafka.

Its engines write each token to a file before they send it: what they produced can be read there by
whoever does not believe the ledger. So does its provider `numbered`, which is the same program.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.chaos import outside
from tests.chaos.outside import ENGINE, Kept
from tests.chaos.scale import scaled
from tests.platform import NANOS, Platform
from tests.upstreams import Upstream
from vlinders_embedded import answers, parts
from vlinders_embedded.running import RunningStack, bring_up, take_down
from vlinders_kit.embedded.programs import free_port

REPLICAS = {"gateway": 2, "inference": 2, "worker": 3}
SERVERS = ("postgres", "valkey")
PARTS = (*parts.PARTS, *SERVERS)

NUMBERED = "numbered"
"""Model of the workers' engines, priced by PRICE."""
PROVIDED = "provided"
"""The same at a provider."""
NARROW = "narrow"
"""The same on the workers, which run NARROW_SLOTS of it at once each; its engine is elsewhere."""
NARROW_SLOTS = 4
SCRIPTED = ("plain", "metered")
"""Models of the providers that tests script, `platform.first` and, for `plain`, `.second`."""
SECURE = "secure"
"""Model of the scripted provider that is reached over TLS."""

INPUT, CACHED, OUTPUT = 3, 1, 7
"""Nanos for a token of NUMBERED and PROVIDED: sums tell which tokens were counted."""
GRANT = 1_000 * NANOS
"""What each tenant begins with."""
CALLS = 8
"""How many calls of the model `metered` a new tenant can pay for."""
METERED_TOKENS = 1_000

_LONGEST = 100_000
_PRICE = {
    "input_price": f"{INPUT / NANOS:.9f}",
    "cached_input_price": f"{CACHED / NANOS:.9f}",
    "output_price": f"{OUTPUT / NANOS:.9f}",
}
_METERED = {"input_price": 0, "output_price": f"{GRANT / NANOS / CALLS / METERED_TOKENS:.9f}"}
_PLAIN = {"input_price": "0.000001", "output_price": "0.000002"}


@dataclass(frozen=True)
class Chaos:
    """The stack, and what its engines have produced."""

    platform: Platform
    folder: Path
    outside: Kept
    secure: Upstream
    """A provider as `platform.first`, over TLS."""

    @property
    def stack(self) -> RunningStack:
        return self.platform.stack

    @property
    def parts(self) -> tuple[str, ...]:
        """All that can be killed, by name."""
        kafka = ("kafka",) if self.outside.pids("kafka") else ()
        return (*self.stack.access["parts"], "engine", *kafka)

    def pids(self, part: str) -> list[int]:
        """The processes of a part, as they are now."""
        if part in ("kafka", "provider"):
            return self.outside.pids(part)
        if part == "engine":
            return [pid for worker in self.pids("worker") for pid in _engines_of(worker)]
        return self.stack.pids(part)

    def produced(self, name: str) -> list[int]:
        """Tokens of each attempt at the request of this `user`, by the engines' own files."""
        return [
            attempt
            for file in self.folder.glob(f"engines/*/{name}")
            for attempt in _attempts(file.read_text().split())
        ]

    def last_token(self, name: str) -> float:
        """When the last of them was produced, by the clock of the system."""
        return max(file.stat().st_mtime for file in self.folder.glob(f"engines/*/{name}"))

    def asks(self, part: str) -> list[answers.Asks]:
        """What asks each process of a part of `make up` whether it serves."""
        return [_asks(part, process) for process in self.stack.access["parts"].get(part, [])]

    async def serves(self) -> bool:
        """Whether every process is there and says that it serves."""
        if len(self.pids("engine")) < REPLICAS["worker"]:
            return False
        asks = {part: self.asks(part) for part in PARTS}
        if any(len(found) < REPLICAS.get(part, 1) for part, found in asks.items()):
            return False
        every = [ask() for found in asks.values() for ask in found]
        return all(await asyncio.gather(*every))


@contextmanager
def brought_up(
    folder: Path, cache: Path, providers: Sequence[Mapping[str, Any]], authority: Path
) -> Iterator[tuple[RunningStack, Kept]]:
    """The stack for the block, and what stands around it; `providers` are those of tests, of whose
    certificates `authority` is believed."""
    around, url = outside.provider(folder)
    own = {
        "name": PROVIDED,
        "base_url": url,
        "always_stream": True,
        "models": {PROVIDED: {"upstream": NUMBERED, "context_length": _LONGEST, **_PRICE}},
    }
    variables = _variables(folder, [own, *providers], url)
    variables["SSL_CERT_FILE"] = str(authority)
    kept, beside = Kept(folder), [around]
    if (broker := outside.broker(cache, folder)) is not None:
        part, variables["KAFKA"] = broker
        beside.append(part)
    with ExitStack() as stack:
        stack.enter_context(kept.running(beside))
        stack.callback(take_down, folder / "var")
        yield bring_up(folder / "var", port=free_port(), variables=variables), kept


def models_of(*, second: bool) -> dict[str, Any]:
    """Models of a provider that tests script."""
    models: dict[str, Any] = {"plain": {"upstream": "plain-2026", **_PLAIN}}
    return models if second else models | {"metered": _METERED}


def secure_provider(secure: Upstream) -> dict[str, Any]:
    """The provider over TLS, as it is told to the stack."""
    models = {SECURE: {"upstream": f"{SECURE}-2026", **_PLAIN}}
    told = {"base_url": secure.base_url, "api_key": secure.api_key}
    return {"name": SECURE, **told, "models": models}


def _variables(folder: Path, providers: list[Mapping[str, Any]], elsewhere: str) -> dict[str, str]:
    files = {
        "PROVIDERS": {"providers": providers},
        "CATALOGUE": {
            "models": {
                model: {
                    "worker_model": model,
                    "context_length": _LONGEST,
                    "max_tokens": _LONGEST // 2,
                    **_PRICE,
                }
                for model in (NUMBERED, NARROW)
            }
        },
        "ENGINES": {
            "engines": [
                {
                    "id": NUMBERED,
                    "engine": "command",
                    "model": NUMBERED,
                    "command": outside.engine("{port}", folder),
                    "counts": "continuous_usage",
                    "parallel": 512,
                    "context_length": _LONGEST,
                },
                {
                    "id": NARROW,
                    "engine": "external",
                    "model": NARROW,
                    "url": elsewhere,
                    "served_name": NUMBERED,
                    "counts": "continuous_usage",
                    "parallel": NARROW_SLOTS,
                    "context_length": _LONGEST,
                },
            ]
        },
    }
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return {
        **{name: str(folder / f"{name}.yaml") for name in files},
        "REPLICAS": " ".join(f"{part}={number}" for part, number in REPLICAS.items()),
        "VLINDERS_BILLING_SIGNUP_GRANT": str(GRANT // NANOS),
        # What a killed replica was lent is back within a test.
        "VLINDERS_BILLING_LEASE_LIFETIME": "PT15S",
        "VLINDERS_BILLING_LEASE_GRACE": "PT5S",
        "VLINDERS_BILLING_SWEEP_INTERVAL": "PT1S",
        # As short as five beats may be, where a lease has to be waited for many times.
        "VLINDERS_GPU_SCHEDULER_BEAT": scaled("PT1S", "PT2S"),
        "VLINDERS_GPU_SCHEDULER_LEASE": scaled("PT8S", "PT15S"),
        # Of the plan `pro` every request is counted, and none refused.
        "VLINDERS_GATEWAY_PLAN_RATES": "free=0,pro=600000,operator=0",
        "VLINDERS_GATEWAY_PUBLIC_RATE": "0",
        "VLINDERS_GATEWAY_RATES": "0",
        "VLINDERS_GATEWAY_ANONYMOUS_RATES": "0",
        "VLINDERS_WORKER_SHOW_REQUESTS": "1",
    }


def _engines_of(worker: int) -> list[int]:
    try:
        children = psutil.Process(worker).children(recursive=True)
        return [child.pid for child in children if ENGINE.name in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


def _attempts(numbers: list[str]) -> list[int]:
    """How far each count from one goes."""
    ends: defaultdict[int, int] = defaultdict(int)
    attempt = 0
    for number in map(int, numbers):
        attempt += number == 1
        ends[attempt] = number
    return list(ends.values())


def _asks(part: str, process: Mapping[str, Any]) -> answers.Asks:
    if part in SERVERS:
        return partial(outside.listens, process["tcp"])
    return answers.http(process["metrics"], "/readyz")
