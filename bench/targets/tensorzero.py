"""TensorZero's gateway (Rust), without a database: it observes and limits nothing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bench.peers import environment, version
from bench.programs import Door, Provider
from bench.targets.target import MODELS, Running, Target
from vlinders_kit.embedded.programs import Program, leashed, running

_SERVE = """
import sys, threading
from tensorzero.tensorzero import _start_http_gateway

gateway = _start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None,
    async_setup=False,
)
with open(sys.argv[2], "w") as file:
    file.write(gateway.base_url + "\\n")
threading.Event().wait()
"""
"""The gateway is a library inside of the wheel, which serves HTTP on a port that it chooses."""


@contextmanager
def _start(provider: Provider, folder: Path) -> Iterator[Running]:
    python = environment("tensorzero") / "bin" / "python"
    config, told = folder / "tensorzero.toml", folder / "tensorzero.url"
    config.write_text("\n".join([_NOTHING_KEPT, *(_model(name, provider) for name in MODELS)]))
    told.unlink(missing_ok=True)
    command = leashed([str(python), "-c", _SERVE, str(config), str(told)])
    program = Program("tensorzero", command, lambda: told.exists() and "\n" in told.read_text())
    with running(program, log=folder / "tensorzero.log") as process:
        port = urlsplit(told.read_text().strip()).port
        assert port is not None
        path = "/openai/v1/chat/completions"
        door = Door(port, path, model_prefix="tensorzero::model_name::")
        yield Running(door, lambda: {"tensorzero": [process.pid]})


_NOTHING_KEPT = "[gateway]\nobservability.enabled = false"


def _model(name: str, provider: Provider) -> str:
    facts = {
        "type": "openai",
        "api_base": f"http://127.0.0.1:{provider.port}/v1/",
        "model_name": name,
        "api_key_location": "none",
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in facts.items()]
    head = [f"[models.{name}]", 'routing = ["mock"]', f"[models.{name}.providers.mock]"]
    return "\n".join([*head, *lines])


TARGET = Target("tensorzero", f"TensorZero {version('tensorzero')} (Rust)", _start)
