"""Settings of a part: typed, from the environment, each with its sentence."""

import sys
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings


class Settings(BaseSettings):
    """Subclass it per part; `prefix` names the variables: `VLINDERS_AUTH` and `port` are `VLINDERS_AUTH_PORT`."""

    prefix: ClassVar[str]
    model_config: ClassVar[ConfigDict] = ConfigDict(  # type: ignore[misc,assignment]
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


class PartSettings(Settings):
    """What every part that serves gRPC is told."""

    host: str = "127.0.0.1"
    """Address to listen on."""

    port: int = Field(ge=1, le=65535)
    """Port of the gRPC server."""

    metrics_port: int = Field(0, ge=0, le=65535)
    """Port of `/metrics`, for Prometheus; 0 serves none."""

    caller_key: SecretStr = Field(min_length=64)
    """Key that signs callers between parts: at least 32 bytes in hex, the same for all parts."""

    traces: str | None = None
    """OTLP/gRPC endpoint that gets the spans, as `http://collector:4317`; none without."""

    traces_sampled: float = Field(0.01, ge=0, le=1)
    """Share of the traces that begin here and are kept."""

    log_level: str = "INFO"
    """Least level of the log lines that are written."""


class ServiceSettings(PartSettings):
    """What a part with a database of its own is told."""

    database_url: SecretStr
    """Where the service's own database is, as `postgresql://…`; no other service may know it."""

    bus: SecretStr
    """The event bus: `postgresql://…` of the bus database, or `kafka://host:port[,host:port]`."""
