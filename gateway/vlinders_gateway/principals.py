"""Principals: callers as the edge keeps them, for as long as they are believed."""

from dataclasses import dataclass, field
from functools import cache

from vlinders.api.v1.caller_pb2 import Caller
from vlinders_gateway.rates import HOUR, Rate


@dataclass(frozen=True, eq=False, slots=True)
class Principal:
    """A caller, as the requests of one dialect need it."""

    caller: Caller
    wire: bytes
    """The caller serialized, as PipeOpen carries it: without request id and client address."""

    bucket: str
    """What its requests are counted under: the dialect, and the API key, or the account with all
    its sessions."""

    plan: str
    api_key_id: str
    own_rate: Rate | None
    """Of the API key, where its maker has said so."""

    permitted: set[str] = field(default_factory=set)
    """Names of operations that its policy was found to permit."""

    @staticmethod
    def of(told: Caller, dialect: str) -> "Principal":
        caller = Caller()
        caller.CopyFrom(told)
        caller.dialect = dialect
        if told.dialect not in ("", dialect):
            caller.ClearField("scopes")  # a key opens nothing in an API that it was not made for
        return Principal(
            caller,
            caller.SerializeToString(),
            bucket=f"{dialect}:{caller.api_key_id or caller.account_id}",
            plan=caller.plan,
            api_key_id=caller.api_key_id,
            own_rate=Rate(caller.hourly_limit, HOUR) if caller.hourly_limit else None,
        )


@cache
def anonymous(dialect: str) -> Principal:
    """Whoever makes a public request in this dialect."""
    return Principal.of(Caller(kind=Caller.KIND_ANONYMOUS), dialect)
