"""Settings of the auth service. Each is a `VLINDERS_AUTH_…` variable of the environment."""

from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr, field_validator

from vlinders_kit import api_keys
from vlinders_kit.sealing import Sealer
from vlinders_kit.settings import ServiceSettings


class AuthSettings(ServiceSettings):
    prefix: ClassVar = "VLINDERS_AUTH"

    sealing_key_file: Path
    """JSON file of the keys that seal signing keys: `{"current": id, "keys": {id: hex32}}`."""

    admin_email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$", max_length=254)
    """E-mail of the administrator, who is created at the first start."""

    admin_password: SecretStr = Field(min_length=12, max_length=128)
    """Password that the administrator is created with: at least 12 characters, no default."""

    admin_username: str = Field("admin", pattern=r"^[A-Za-z0-9_.-]{3,50}$")
    """Username that the administrator is created with."""

    operator_api_key: SecretStr | None = None
    """API key that the administrator is given, as `python -m vlinders_auth.mint` makes one."""

    token_issuer: str = "vlinders"
    """`iss` of access tokens."""

    token_audience: str = "vlinders"
    """`aud` of access tokens."""

    signing_key_lifetime: timedelta = Field(timedelta(days=30), ge=timedelta(hours=3))
    """How long a key signs access tokens before the next one does, as `P30D`."""

    session_lifetime: timedelta = Field(timedelta(days=30), gt=timedelta(0))
    """How long a sign-in lasts."""

    keys_per_account: int = Field(200, ge=1)
    """How many API keys an account may have that are neither revoked nor expired."""

    organizations_per_tenant: int = Field(100, ge=1)
    """How many organizations a tenant may have."""

    members_per_organization: int = Field(1_000, ge=1)
    """How many members an organization may have."""

    password_memory_kib: int = Field(19 * 1024, ge=19 * 1024)
    """Memory that one argon2id hash takes. Old hashes follow when it is raised."""

    password_passes: int = Field(2, ge=2)
    """Passes of argon2id. Old hashes follow when it is raised."""

    password_threads: int = Field(2, ge=1)
    """Passwords that are checked at the same time."""

    password_queue: int = Field(64, ge=0)
    """Passwords that may wait to be checked; beyond, sign-ins are refused for the moment."""

    @field_validator("sealing_key_file")
    @classmethod
    def _is_readable(cls, file: Path) -> Path:
        Sealer.load(file)
        return file

    @field_validator("operator_api_key")
    @classmethod
    def _is_well_formed(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not api_keys.is_well_formed(key.get_secret_value()):
            raise ValueError("not an API key; python -m vlinders_auth.mint makes one")
        return key
