"""LiteLLM's proxy as it is cheapest: one worker, a master key, no database, no callbacks."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers import environment, version
from bench.programs import Door, Provider
from bench.targets.target import MODELS, Running, Target, free_port, served

_VARIABLES = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


@contextmanager
def _start(provider: Provider, folder: Path) -> Iterator[Running]:
    program = environment("litellm") / "bin" / "litellm"
    port, key = free_port(), f"sk-{secrets.token_hex(16)}"
    config = folder / "litellm.yaml"
    base = f"http://127.0.0.1:{provider.port}/v1"
    models = [
        {
            "model_name": name,
            "litellm_params": {"model": f"openai/{name}", "api_base": base, "api_key": "none"},
        }
        for name in MODELS
    ]
    config.write_text(json.dumps({"model_list": models}))  # JSON is YAML
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", "1", "--telemetry", "False"]
    door = Door(port, headers=[f"Authorization: Bearer {key}"])
    variables = {**_VARIABLES, "LITELLM_MASTER_KEY": key}
    health = "/health/liveliness"
    with served(
        "litellm", command, door, folder=folder, health=health, variables=variables
    ) as running:
        yield running


TARGET = Target("litellm", f"LiteLLM {version('litellm')}, 1 worker, no database", _start)
