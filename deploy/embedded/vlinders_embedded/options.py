"""What `make up` is told: the variables PORT, VAR, PROFILE and so on, read and checked."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PROFILES = ("default", "contracts")
MANY = ("gateway", "auth", "billing", "inference", "gpu-scheduler", "worker")
"""Parts of which there can be several processes. Of the gpu-schedulers one is active."""
SHIPPED = Path(__file__).parents[1]
"""Where the profiles' catalogues and engines are."""


class BadOption(ValueError):
    """A variable does not say what it should; the text is for whoever set it."""


@dataclass(frozen=True)
class Options:
    port: int
    """Of the gateway."""
    var: Path
    """Folder of all state."""
    profile: str
    catalogue: Path
    engines: Path
    providers: Path | None
    kafka: str | None
    """`host:port[,host:port]` of the brokers; None for the bus in PostgreSQL."""
    replicas: Mapping[str, int]
    """Part → number of processes, where it is not one."""
    admin_email: str
    admin_username: str
    admin_password: str | None

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Raises BadOption."""
        given = {name: value for name, value in environment.items() if value.strip()}
        profile = given.get("PROFILE", "default")
        if profile not in PROFILES:
            raise BadOption(f"PROFILE={profile}: there is {' and '.join(PROFILES)}")
        file = f"{profile}.yaml"
        return cls(
            port=_port(given.get("PORT", "8080")),
            var=Path(given.get("VAR", "var")).resolve(),
            profile=profile,
            catalogue=_file(given, "CATALOGUE") or SHIPPED / "catalogue" / file,
            engines=_file(given, "ENGINES") or SHIPPED / "engines" / file,
            providers=_file(given, "PROVIDERS"),
            kafka=given.get("KAFKA"),
            replicas=_replicas(given.get("REPLICAS", "")),
            admin_email=given.get("ADMIN_EMAIL", "admin@vlinders.local"),
            admin_username=given.get("ADMIN_USERNAME", "admin"),
            admin_password=given.get("ADMIN_PASSWORD"),
        )

    def count(self, part: str) -> int:
        default = 2 if part == "worker" and self.profile == "contracts" else 1
        return self.replicas.get(part, default)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise BadOption(f"PORT={text}: a port is a number from 1 to 65535")
    return int(text)


def _file(given: Mapping[str, str], name: str) -> Path | None:
    if name not in given:
        return None
    file = Path(given[name]).resolve()
    if not file.is_file():
        raise BadOption(f"{name}={given[name]}: there is no such file")
    return file


def _replicas(text: str) -> dict[str, int]:
    replicas = {}
    for word in text.replace(",", " ").split():
        part, _, number = word.partition("=")
        if part not in MANY or not number.isdigit() or not 1 <= int(number) <= 16:
            raise BadOption(
                f'REPLICAS: "{word}" is not understood; write "gateway=2 inference=2", of'
                f" {', '.join(MANY)}, 16 of each at most"
            )
        replicas[part] = int(number)
    return replicas
