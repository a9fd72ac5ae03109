"""The parts of a stack: how each is started, what it is told, where it serves."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vlinders_embedded import answers
from vlinders_embedded.folder import OF_STACK
from vlinders_embedded.minted import Secrets, sealing_key_file
from vlinders_embedded.options import SHIPPED, Options
from vlinders_embedded.ports import ports_of
from vlinders_embedded.supervisor import Part
from vlinders_kit.embedded.postgres import Postgres
from vlinders_kit.embedded.programs import Program, leashed
from vlinders_kit.embedded.valkey import Valkey

SERVICES = ("auth", "billing", "inference", "gpu-scheduler")
PARTS = (*SERVICES, "worker", "gateway")
PACKAGES = {
    "auth": "vlinders_auth",
    "billing": "vlinders_billing",
    "inference": "vlinders_inference",
    "gpu_scheduler": "vlinders_gpu_scheduler",
    "bus": "vlinders_kit.bus",
}
"""Database → package whose migrations it gets."""
TIERS = {"gateway": 5, "inference": 4, "worker": 3, "gpu-scheduler": 2, "billing": 2, "auth": 2}
"""Requests end at the gateway first, then whoever serves and settles them; the servers last."""
_OURS = ("VLINDERS_", "ADMIN_", "MAKE", "MFLAGS")
"""Variables of the door and of parts, handed on to nobody but the part that they are for. What
make was told, the administrator's password too, it tells on in variables of its own."""
_LEAN = {
    "MALLOC_ARENA_MAX": "2",  # threads of a small process gain nothing from heaps of their own
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Stack:
    """What runs where. Its folder is `options.var`."""

    options: Options
    secrets: Secrets
    ports: Mapping[str, int]
    """By the labels of processes, as `auth-1` and `auth-1-metrics`."""

    @classmethod
    def plan(cls, options: Options, secrets: Secrets, claims: ExitStack) -> "Stack":
        """Finds a port for everything but the gateway, which has its own; `claims` hold them."""
        labels = ["postgres", "valkey"]
        for part in PARTS:
            for number in range(1, options.count(part) + 1):
                labels += [f"{part}-{number}", f"{part}-{number}-metrics"]
                labels += [f"{part}-{number}-pipes"] if part == "inference" else []
        return cls(options, secrets, ports_of(options.var, labels, claims))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.options.port}"

    @property
    def postgres(self) -> Postgres:
        return Postgres(self._folder("postgres"), self.ports["postgres"], self.secrets.postgres)

    @property
    def valkey(self) -> Valkey:
        return Valkey(self._folder("valkey"), self.ports["valkey"], self.secrets.valkey)

    def database_url(self, name: str) -> str:
        return self.postgres.url(name, user=name, password=self.secrets.databases[name])

    def targets(self, part: str, kind: str = "") -> list[str]:
        """`host:port` of each process of a part: of its gRPC server, or of another `kind`."""
        numbers = range(1, self.options.count(part) + 1)
        return [f"127.0.0.1:{self.ports[f'{part}-{number}{kind}']}" for number in numbers]

    def servers(self) -> list[Part]:
        """PostgreSQL and Valkey."""
        postgres, valkey = self.postgres, self.valkey
        return [
            self._server(postgres.program(), postgres.prepare, postgres.port),
            self._server(valkey.program(), valkey.prepare, valkey.port),
        ]

    def migrations(self) -> tuple[list[str], dict[str, str]]:
        """Command and environment that bring every database to its last revision."""
        command = [sys.executable, "-m", "vlinders_kit.migrations", *PACKAGES.values()]
        urls = {
            f"{package.upper().replace('.', '_')}_DATABASE_URL": self.database_url(name)
            for name, package in PACKAGES.items()
        }
        return leashed(command), self._environment("", urls)

    def parts(self) -> list[Part]:
        """Every part of ours, in as many processes as wanted."""
        return [part for name in PARTS for part in self._processes(name)]

    def _processes(self, part: str) -> Iterator[Part]:
        told = getattr(self, f"_{part.replace('-', '_')}")
        for number in range(1, self.options.count(part) + 1):
            label = f"{part}-{number}"
            port, metrics = self.ports[label], self.ports[f"{label}-metrics"]
            common = {"PORT": port, "METRICS_PORT": metrics, "CALLER_KEY": self.secrets.caller_key}
            variables = {
                f"VLINDERS_{part.replace('-', '_').upper()}_{name}": str(value)
                for name, value in {**common, **told(number)}.items()
            }
            addresses = _addresses(part, port, metrics, gateway=self.options.port)
            yield Part(
                part,
                leashed([sys.executable, "-m", f"vlinders_{part.replace('-', '_')}.main"]),
                answers.http(addresses["metrics"], "/readyz"),
                tier=TIERS[part],
                number=number,
                environment=self._environment(part, variables),
                addresses=addresses,
                lives=answers.http(addresses["metrics"], "/healthz"),
            )

    def _gateway(self, number: int) -> dict[str, object]:
        told: dict[str, object] = {
            "PORT": self.options.port,
            "GATEWAYS": self.options.count("gateway"),
            "AUTH": _balanced(self.targets("auth")),
            "BILLING": _balanced(self.targets("billing")),
            "GPU_SCHEDULER": _balanced(self.targets("gpu-scheduler")),
            "INFERENCE": _balanced(self.targets("inference")),
            "PIPES": ",".join(self.targets("inference", "-pipes")),
            "REDIS": self.valkey.url,
            "BUS": self._bus,
        }
        if self.options.profile == "contracts":
            told["TRUSTED_PROXIES"] = "127.0.0.0/8,::1/128"
        return told

    def _auth(self, number: int) -> dict[str, object]:
        told: dict[str, object] = {
            **self._service("auth"),
            "SEALING_KEY_FILE": sealing_key_file(self.options.var, "auth"),
            "ADMIN_EMAIL": self.options.admin_email,
            "ADMIN_USERNAME": self.options.admin_username,
            "ADMIN_PASSWORD": self.secrets.admin_password,
            "OPERATOR_API_KEY": self.secrets.api_key,
            "PUBLIC_URL": os.environ.get("VLINDERS_AUTH_PUBLIC_URL", self.url),
            "MAIL_FOLDER": os.environ.get("VLINDERS_AUTH_MAIL_FOLDER", self._folder("mails")),
        }
        if self.options.profile == "contracts":
            told["OAUTH_SANDBOX"] = "true"
        return told

    def _billing(self, number: int) -> dict[str, object]:
        return {**self._service("billing"), "OPERATOR_GRANT": 1_000_000}

    def _inference(self, number: int) -> dict[str, object]:
        told = {
            **self._service("inference"),
            "BILLING": _balanced(self.targets("billing")),
            "GPU_SCHEDULER": _balanced(self.targets("gpu-scheduler")),
            "PIPE_PORT": self.ports[f"inference-{number}-pipes"],
            "CATALOGUE": self.options.catalogue,
            "SEALING_KEY_FILE": sealing_key_file(self.options.var, "inference"),
        }
        if self.options.providers is not None:
            told["PROVIDERS"] = self.options.providers
        return told

    def _gpu_scheduler(self, number: int) -> dict[str, object]:
        return {**self._service("gpu_scheduler"), "JOIN_TOKEN": self.secrets.join_token}

    def _worker(self, number: int) -> dict[str, object]:
        told: dict[str, object] = {
            "SCHEDULER": ",".join(self.targets("gpu-scheduler")),
            "JOIN_TOKEN": self.secrets.join_token,
            "ENGINES": self.options.engines,
            "STATE_DIR": self._folder(f"worker-{number}"),
        }
        if self.options.profile == "contracts":
            told["PRETEND_GPUS"] = SHIPPED / "gpus" / "contracts.yaml"
        return told

    def _service(self, database: str) -> dict[str, object]:
        return {
            "DATABASE_URL": self.database_url(database),
            "BUS": self._bus,
        }

    @property
    def _bus(self) -> str:
        kafka = self.options.kafka
        return self.database_url("bus") if kafka is None else f"kafka://{kafka}"

    def _folder(self, name: str) -> Path:
        return self.options.var / name

    def _server(self, program: Program, prepare: Callable[[], None], port: int) -> Part:
        return Part(
            program.name,
            program.command,
            answers.program(program.serves),
            environment=self._environment(program.name, {}),
            addresses={"tcp": f"127.0.0.1:{port}"},
            prepare=prepare,
            ends_by=program.ends_by,
            lives=answers.program(program.lives or program.serves),
        )

    def _environment(self, part: str, variables: Mapping[str, str]) -> dict[str, str]:
        """What the process finds: our own environment, without what concerns other parts."""
        own = f"VLINDERS_{part.replace('-', '_').upper()}_"
        handed = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_OURS) or (part and name.startswith(own))
        }
        return {**_LEAN, **handed, **variables, OF_STACK: str(self.options.var)}


def _addresses(part: str, port: int, metrics: int, *, gateway: int) -> dict[str, str]:
    """Where a process of `part` is reached: by whom it is for, and by who watches it."""
    kind = "grpc" if part in SERVICES else "http"
    own = gateway if part == "gateway" else port
    return {kind: f"127.0.0.1:{own}", "metrics": f"127.0.0.1:{metrics}"}


def _balanced(targets: list[str]) -> str:
    """A gRPC target that spreads calls over all `targets`."""
    return targets[0] if len(targets) == 1 else f"ipv4:{','.join(targets)}"
