"""Settings of the auth service. Each is a `VLINDERS_AUTH_…` variable of the environment."""

import re
import ssl
from datetime import timedelta
from email.utils import parseaddr
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from vlinders_auth.carriers import Encryption, Server
from vlinders_auth.dialects import CANONICAL
from vlinders_auth.oauth_registry import Registry
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

    invitations_per_tenant: int = Field(100, ge=1)
    """How many people may be asked to join a tenant and have not answered."""

    public_url: str = Field("http://127.0.0.1:8080", pattern=r"^https?://[^\s/?#@]+/?$")
    """Where clients find the gateway: what links in mails and OAuth redirect URIs begin with."""

    oauth_file: Path | None = None
    """JSON file of the platform's clients at OAuth providers, as below; without, there are none."""

    oauth_sandbox: bool = False
    """Browsers are sent to providers without a client, too, as `sandbox`: for tests of the API."""

    smtp_host: str | None = None
    """Mail server that mails are sent by; without, they are written into the folder below."""

    smtp_port: int = Field(587, ge=1, le=65535)
    """Its port: usually 587 with `starttls`, 465 with `tls`."""

    smtp_encryption: Encryption = "starttls"
    """How it is spoken to: `starttls`, `tls` from the first byte, or `none`."""

    smtp_authority_file: Path | None = None
    """PEM file of the authority of its certificate; without, those that the system knows."""

    smtp_username: str | None = None
    """Who signs in there; without, nobody does."""

    smtp_password: SecretStr | None = None
    """The password that goes with it."""

    mail_folder: Path | None = None
    """Folder that mails are written into, a file each; without it and a server, none are sent."""

    mail_sender: str = "Vlinders <no-reply@localhost>"
    """Whom mails are from, as an address or `Name <address>`."""

    mails_per_address: int = Field(5, ge=1)
    """Mails that go to one address in an hour."""

    mails_per_account: int = Field(50, ge=1)
    """Mails that one account may ask for in an hour."""

    mails_waiting: int = Field(1_000, ge=1)
    """Mails that may wait to be sent; beyond, no more are taken for the moment."""

    password_memory_kib: int = Field(19 * 1024, ge=19 * 1024)
    """Memory that one argon2id hash takes. Old hashes follow when it is raised."""

    password_passes: int = Field(2, ge=2)
    """Passes of argon2id. Old hashes follow when it is raised."""

    password_threads: int = Field(2, ge=1)
    """Passwords that are checked at the same time."""

    password_queue: int = Field(64, ge=0)
    """Passwords that may wait to be checked; beyond, sign-ins are refused for the moment."""

    @property
    def mail_server(self) -> Server | None:
        """The server that mails are sent by, and how it is spoken to."""
        if self.smtp_host is None:
            return None
        password = self.smtp_password
        return Server(
            self.smtp_host,
            self.smtp_port,
            self.smtp_encryption,
            authority=self.smtp_authority_file,
            username=self.smtp_username,
            password=None if password is None else password.get_secret_value(),
        )

    @field_validator("sealing_key_file")
    @classmethod
    def _is_readable(cls, file: Path) -> Path:
        Sealer.load(file)
        return file

    @field_validator("oauth_file")
    @classmethod
    def _has_clients(cls, file: Path | None) -> Path | None:
        Registry.load(file, public_url="")
        return file

    @field_validator("smtp_authority_file")
    @classmethod
    def _has_certificates(cls, file: Path | None) -> Path | None:
        try:
            ssl.create_default_context(cafile=file)
        except OSError:
            raise ValueError("no PEM file of certificates") from None
        return file

    @field_validator("mail_sender")
    @classmethod
    def _is_an_address(cls, sender: str) -> str:
        address = parseaddr(sender)[1]
        if not re.fullmatch(r"[^@\s]+@[^@\s]+", address) or not sender.isprintable():
            raise ValueError("not an address, nor a name with one in <>")
        return sender

    @model_validator(mode="after")
    def _says_no_password_in_clear(self) -> Self:
        if (self.smtp_username is None) != (self.smtp_password is None):
            raise ValueError("smtp_username and smtp_password go together")
        if self.smtp_username is not None and self.smtp_encryption == "none":
            raise ValueError("smtp_password is not said without encryption")
        return self

    @field_validator("operator_api_key")
    @classmethod
    def _is_well_formed(cls, key: SecretStr | None) -> SecretStr | None:
        text = "" if key is None else key.get_secret_value()
        ours = text.startswith(CANONICAL.keys.form.prefix) and api_keys.is_well_formed(text)
        if key is not None and not ours:
            raise ValueError("not such an API key; python -m vlinders_auth.mint makes one")
        return key
