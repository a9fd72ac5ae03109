"""Settings of the gateway. Each is a `VLINDERS_GATEWAY_…` variable of the environment."""

from collections.abc import Iterable
from datetime import timedelta
from ipaddress import ip_network
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeInt, SecretStr, field_validator
from pydantic_settings import NoDecode

from vlinders_gateway.dialects import DIALECTS
from vlinders_gateway.rates import HOUR, Rate, Rates, slowest
from vlinders_kit.settings import PartSettings

Words = Annotated[tuple[str, ...], NoDecode]
"""Comma-separated."""

Numbers = Annotated[dict[str, NonNegativeInt], NoDecode]
"""`name=number`, comma-separated."""

Names = Annotated[dict[str, str], NoDecode]
"""`name=name`, comma-separated."""

RatesByName = Annotated[dict[str, Rate], NoDecode]
"""`rate,name=rate`, comma-separated; the one without a name is for all that are not named."""

PLANNED = "vlinders"
"""The dialect whose clients' plans say how often they may ask."""

OTHERS = ""
"""Stands for the names that are not there."""


class GatewaySettings(PartSettings):
    prefix: ClassVar = "VLINDERS_GATEWAY"

    port: int = Field(8080, ge=1, le=65535)
    """Port for clients; several gateways of one host share it."""

    metrics_host: str = "127.0.0.1"
    """Address to listen on, for the platform's own."""

    metrics_port: int = Field(0, ge=0, le=65535)
    """Port of `/healthz`, `/readyz` and `/metrics`, for probes and Prometheus; 0 serves none."""

    auth: str
    """gRPC target of auth, as `host:port` or `ipv4:a:p,b:q`."""

    billing: str
    """gRPC target of billing."""

    gpu_scheduler: str
    """gRPC target of the scheduler."""

    inference: str
    """gRPC target of inference."""

    pipes: Words
    """Where inference serves pipes, as `host:port,host:port`: a name is all its addresses."""

    redis: SecretStr
    """Where limits are counted, as `redis://:password@host:port/0`."""

    bus: SecretStr
    """The event bus: `postgresql://…` of the bus database, or `kafka://host:port[,host:port]`."""

    token_issuer: str = "vlinders"
    """`iss` of the access tokens that are let in."""

    token_audience: str = "vlinders"
    """`aud` of the access tokens that are let in."""

    plan_rates: Numbers = Field(default={"free": 10, "pro": 100, "enterprise": 1000, "operator": 0})
    """Vlinders: requests a minute of an account or API key, by its tenant's plan; 0 is no limit."""

    public_rate: int = Field(30, ge=0)
    """Vlinders: register, login and refresh calls a minute of a client address; 0 is no limit."""

    rates: RatesByName = Field(default={OTHERS: Rate(1000), "massrouter": Rate(1000, HOUR)})
    """Requests of an account or API key, by dialect, as `1000/min,owl=500/h`; 0: no limit."""

    anonymous_rates: RatesByName = Field(default={OTHERS: Rate(100), "massrouter": Rate(100, HOUR)})
    """Other requests of a client address without a valid credential, by dialect; 0: no limit."""

    call_rates: RatesByName = Field(default={OTHERS: Rate(0), "maas": Rate(100)})
    """Calls of models of an account or API key, counted in addition, by dialect; 0: no limit."""

    gateways: int = Field(1, ge=1)
    """How many gateways there are, until Redis tells."""

    trusted_proxies: Words = ()
    """Networks of proxies whose `X-Forwarded-For`, `-Proto` and `traceparent` are believed."""

    hosts: Names = Field(default={})
    """Host names of clients that know one API alone, `host=maas,…`: its paths are at their root."""

    https: bool = False
    """Clients come by https even where no trusted proxy says so: cookies are for https alone."""

    cors_origins: Words = ("http://localhost:*", "http://127.0.0.1:*")
    """Origins of web pages that may call; `:*` is any port."""

    max_body_bytes: int = Field(10 * 1024 * 1024, ge=1024)
    """Largest body of a request."""

    max_json_depth: int = Field(64, ge=1)
    """Deepest nesting of a body."""

    max_json_parts: int = Field(400_000, ge=1000)
    """Arrays, objects, items and keys of a body, all together."""

    max_running: int = Field(4096, ge=1)
    """Requests at a time; more are refused with 503, as are fewer while the process is late."""

    max_connections: int = Field(8192, ge=1)
    """Connections of clients that are open at a time; on more, a 503 is the only answer."""

    max_connections_per_address: int = Field(2048, ge=0)
    """Of them, those of one client address (IPv6: its /64) that is no proxy's; 0 is no limit."""

    body_deadline: timedelta = timedelta(seconds=60)
    """How long a body may take to arrive."""

    call_deadline: timedelta = timedelta(seconds=10)
    """How long a service may take to answer."""

    stream_deadline: timedelta = timedelta(minutes=10)
    """How long a chat completion may take, to its last byte."""

    silence: timedelta = timedelta(seconds=60)
    """After so long without a sign of life a client has vanished, and its request is ended."""

    drain: timedelta = timedelta(seconds=30)
    """How long what runs may go on after the process was told to end."""

    logged: float = Field(0.01, ge=0, le=1)
    """Share of the requests that get a line in the log; faults of the platform always do."""

    @field_validator("pipes", "trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(word.strip() for word in value.split(",") if word.strip())

    @field_validator("plan_rates", "hosts", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        rows = (row.partition("=") for row in value.split(",") if row.strip())
        return {name.strip(): number.strip() for name, _, number in rows}

    @field_validator("hosts")
    @classmethod
    def _dialects(cls, value: dict[str, str]) -> dict[str, str]:
        _require_known(value.values())
        return value

    @field_validator("rates", "anonymous_rates", "call_rates", mode="before")
    @classmethod
    def _rates(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        rows = [row.strip().rpartition("=") for row in value.split(",")]
        found = {name.strip(): Rate.read(rate.strip()) for name, _, rate in rows}
        if OTHERS not in found:
            raise ValueError("needs a rate for all that are not named, as 100/min")
        _require_known(found.keys() - {OTHERS})
        return found

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ip_network(network)
        return value

    def rates_of(self, dialect: str) -> Rates:
        """How often the clients of a dialect may ask."""
        known, anonymous, calls = (
            rates.get(dialect, rates[OTHERS])
            for rates in (self.rates, self.anonymous_rates, self.call_rates)
        )
        if dialect != PLANNED:
            return Rates(known, anonymous=anonymous, calls=calls)
        plans = {plan: Rate(limit) for plan, limit in self.plan_rates.items()}
        return Rates(
            slowest(plans), anonymous, plans=plans, writes=Rate(self.public_rate), calls=calls
        )


def _require_known(dialects: Iterable[str]) -> None:
    unknown = set(dialects) - {dialect.name for dialect in DIALECTS}
    if unknown:
        raise ValueError(f"there is no dialect {', '.join(sorted(unknown))}")
