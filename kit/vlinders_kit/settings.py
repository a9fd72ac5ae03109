"""Settings of a part: typed, from the environment, each with its sentence."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsError

from vlinders_kit import metrics
from vlinders_kit.callers import CallerKey
from vlinders_kit.tls import Tls
from vlinders_kit.tracing import SLOW_SECONDS

OTLP_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""The variable of OpenTelemetry's own that says where spans go, where a part's own does not."""


class Settings(BaseSettings):
    """Subclass it per part: with the prefix `VLINDERS_AUTH`, `port` is `VLINDERS_AUTH_PORT`."""

    prefix: ClassVar[str]
    model_config: ClassVar[ConfigDict] = ConfigDict(  # type: ignore[assignment]
        frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "prefix" in cls.__dict__:
            cls.model_config = {**cls.model_config, "env_prefix": f"{cls.prefix}_"}  # type: ignore[typeddict-unknown-key]

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Name of each variable → its sentence."""
        return {
            f"{cls.prefix}_{name}".upper(): (field.description or "").strip()
            for name, field in cls.model_fields.items()
        }

    @classmethod
    def load(cls) -> Self:
        """The settings, or an exit that says which variables are wrong and what they are for."""
        try:
            return cls()
        except ValidationError as error:
            sentences = cls.variables()
            for row in error.errors(include_input=False, include_url=False):
                variable = f"{cls.prefix}_{row['loc'][0] if row['loc'] else ''}".upper()
                sys.stderr.write(f"{variable}: {row['msg']}. {sentences.get(variable, '')}\n")
            raise SystemExit(2) from None
        except SettingsError as error:  # a list or mapping that is no JSON
            sys.stderr.write(f"{cls.prefix}_…: {error}\n")
            raise SystemExit(2) from None


class TlsSettings(Settings):
    """What a part is told that shows certificates to others."""

    tls_certificate: Path | None = None
    """PEM file of the certificate that this part shows to others; without, nothing is encrypted."""

    tls_key: Path | None = None
    """PEM file of the certificate's key."""

    tls_authority: Path | None = None
    """PEM file of the authority whose certificates this part takes from others."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        files = (self.tls_certificate, self.tls_key, self.tls_authority)
        if any(files) and not all(files):
            raise ValueError("tls_certificate, tls_key and tls_authority go together")
        return self

    @property
    def tls(self) -> Tls | None:
        """What this part shows and trusts, read now; None where nothing is encrypted."""
        if not (self.tls_certificate and self.tls_key and self.tls_authority):
            return None
        tls = Tls.load(self.tls_certificate, self.tls_key, self.tls_authority)
        metrics.gauge(
            "vlinders_certificate_expires_timestamp_seconds",
            "When the certificate ends that this part shows.",
            tls.expires_at.timestamp,
        )
        return tls


class TracedSettings(Settings):
    """What a part is told that traces requests."""

    traces: str | None = Field(default_factory=partial(os.environ.get, OTLP_ENDPOINT))
    """OTLP/gRPC endpoint that gets the spans; without, what `OTEL_EXPORTER_OTLP_ENDPOINT` says."""


class PartSettings(TlsSettings, TracedSettings):
    """What every part that serves gRPC is told."""

    host: str = "127.0.0.1"
    """Address to listen on."""

    port: int = Field(ge=1, le=65535)
    """Port of the gRPC server."""

    metrics_port: int = Field(0, ge=0, le=65535)
    """Port of `/healthz`, `/readyz` and `/metrics`, for probes and Prometheus; 0 serves none."""

    caller_key: SecretStr = Field(min_length=64)
    """Key that signs callers between parts: at least 32 bytes in hex, the same for all parts."""

    traces_sampled: float = Field(0.01, ge=0, le=1)
    """Share of the requests that are traced whole; what fails, or is slow, is told anyway."""

    traces_slow: float = Field(SLOW_SECONDS, gt=0)
    """Seconds after which a call, or the first token of an answer, is slow."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level of the log lines that are written."""

    @field_validator("caller_key")
    @classmethod
    def _is_hex(cls, value: SecretStr) -> SecretStr:
        try:
            bytes.fromhex(value.get_secret_value())
        except ValueError:
            raise ValueError("must be in hex") from None
        return value

    @property
    def key(self) -> CallerKey:
        """The key that signs callers."""
        return CallerKey(bytes.fromhex(self.caller_key.get_secret_value()))


class ServiceSettings(PartSettings):
    """What a part with a database of its own is told."""

    database_url: SecretStr
    """Where the service's own database is, as `postgresql://…`; no other service may know it."""

    bus: SecretStr
    """The event bus: `postgresql://…` of the bus database, or `kafka://host:port[,host:port]`."""
