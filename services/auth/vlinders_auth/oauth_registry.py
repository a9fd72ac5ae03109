"""The OAuth registry: which providers know this platform, as whom, and where they send back to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from authlib.common.security import is_secure_transport
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from vlinders_auth.dialects import rules_of
from vlinders_auth.errors import OauthProviderNotConfigured, OauthProviderUnknown
from vlinders_auth.oauth_providers import PROVIDERS, Client, Provider

SANDBOX_CLIENT = "sandbox"


@dataclass(frozen=True)
class Registry:
    """The providers, and what each of them knows this platform as."""

    public_url: str
    """Where browsers reach the platform."""
    clients: Mapping[str, Client]
    providers: Mapping[str, Provider]
    sandbox: bool = False
    """Browsers are sent to providers, too, that do not know the platform."""

    @classmethod
    def load(cls, file: Path | None, *, public_url: str, sandbox: bool = False) -> Self:
        """The registry of a file of clients: `{provider: {"client_id": …, "client_secret": …}}`.

        A row may give other addresses for the provider, as for GitHub Enterprise or Lark:
        `authorize`, `token`, `user` (a list), `keys` and `issuers` (a list). They are https, or on
        this machine. Raises ValueError, which tells no secret, for a file that is not there or not
        so.
        """
        clients: dict[str, Client] = {}
        providers = dict(PROVIDERS)
        for name, row in ({} if file is None else _rows(file)).items():
            clients[name] = Client(row.client_id, row.client_secret.get_secret_value())
            providers[name] = row.moved(PROVIDERS[name])
        return cls(public_url.rstrip("/"), clients, providers, sandbox)

    def provider(self, name: str) -> Provider:
        """Raises OauthProviderUnknown."""
        if name not in self.providers:
            raise OauthProviderUnknown
        return self.providers[name]

    def client(self, name: str) -> Client:
        """Raises OauthProviderNotConfigured."""
        if name not in self.clients:
            raise OauthProviderNotConfigured
        return self.clients[name]

    def client_id(self, name: str) -> str:
        """What a browser is sent with; raises OauthProviderNotConfigured."""
        if self.sandbox and name not in self.clients:
            return SANDBOX_CLIENT
        return self.client(name).id

    def redirect_uri(self, name: str, dialect: str) -> str:
        """Where the provider sends the browser back to: one for each provider and dialect."""
        return self.public_url + rules_of(dialect).oauth_callback.format(provider=name)


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    client_id: str = Field(min_length=1)
    client_secret: SecretStr = Field(min_length=1)
    authorize: str | None = None
    token: str | None = None
    user: tuple[str, ...] | None = None
    keys: str | None = None
    issuers: tuple[str, ...] | None = None

    def moved(self, provider: Provider) -> Provider:
        """The provider at the addresses that are given; raises ValueError."""
        given = self.model_dump(exclude={"client_id", "client_secret"}, exclude_none=True)
        moved = replace(provider, **given)
        addresses = (moved.authorize, moved.token, *moved.user, *filter(None, [moved.keys]))
        if not all(map(is_secure_transport, addresses)):
            raise ValueError("a provider's address is not https")
        if len(moved.user) != len(provider.user) or bool(moved.keys) != bool(provider.keys):
            raise ValueError("a provider has other addresses than those")
        return moved


def _rows(file: Path) -> dict[str, _Row]:
    try:
        told = json.loads(file.read_bytes())
    except (OSError, ValueError):
        raise ValueError(f"{file} is no readable JSON") from None
    if not isinstance(told, dict) or not told.keys() <= PROVIDERS.keys():
        raise ValueError(f"{file} has rows for other than {', '.join(sorted(PROVIDERS))}")
    return {name: _Row.model_validate(row) for name, row in told.items()}
