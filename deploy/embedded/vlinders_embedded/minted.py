"""The secrets of a stack: made at its first start, kept in its folder for its owner alone."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vlinders_embedded.files import write_private
from vlinders_kit import api_keys

DATABASES = ("auth", "billing", "inference", "gpu_scheduler", "bus")
"""One of each service, and the bus."""


@dataclass(frozen=True)
class Secrets:
    caller_key: str
    """Hex; signs callers between parts."""
    postgres: str
    """Password of PostgreSQL's superuser."""
    databases: Mapping[str, str]
    """Database → password of the role of that name, its owner."""
    valkey: str
    join_token: str
    """What a worker shows the scheduler."""
    api_key: str
    """The operator's."""
    admin_password: str


def secrets_of(var: Path, *, admin_password: str | None = None) -> Secrets:
    """The stack's secrets, from `secrets.json`; those that are not there yet are made.

    An `admin_password` that is given is kept instead of a made one.
    """
    file = var / "secrets.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    given = {} if admin_password is None else {"admin_password": admin_password}
    new = asdict(_mint())
    databases = new["databases"] | known.get("databases", {})
    told = {**new, **known, **given, "databases": databases}
    if told != known:
        write_private(file, json.dumps(told, indent=2))
    return Secrets(**told)


def sealing_key_file(var: Path, service: str) -> Path:
    """The file of the keys that seal what `service` stores; made where there is none."""
    file = var / f"sealing-{service}.json"
    if not file.exists():
        keys = {"current": "1", "keys": {"1": secrets.token_hex(32)}}
        write_private(file, json.dumps(keys, indent=2))
    return file


def _mint() -> Secrets:
    return Secrets(
        caller_key=secrets.token_hex(32),
        postgres=secrets.token_urlsafe(24),
        databases={name: secrets.token_urlsafe(24) for name in DATABASES},
        valkey=secrets.token_urlsafe(24),
        join_token=secrets.token_urlsafe(32),
        api_key=api_keys.new(),
        admin_password=secrets.token_urlsafe(15),
    )
