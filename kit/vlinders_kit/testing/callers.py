"""Callers for tests: somebody who is let in, until an argument says otherwise."""

from typing import Any

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders_kit.callers import CallerKey, Identity
from vlinders_kit.ids import new_id

CALLER_KEY = CallerKey(b"the caller key of every test run")

SCOPES = ("inference:read", "inference:write", "usage:read")


def a_user(**over: Any) -> Caller:
    """A signed-in user, the owner of a tenant of his own on the plan `free`."""
    return _caller(
        over,
        kind=Caller.KIND_USER,
        account_id=new_id("acc"),
        tenant_id=new_id("ten"),
        roles=[api.ROLE_OWNER],
        session_id=new_id("ses"),
        plan="free",
    )


def an_api_key(**over: Any) -> Caller:
    """An API key with every scope, of a tenant on the plan `free`."""
    return _caller(
        over,
        kind=Caller.KIND_API_KEY,
        account_id=new_id("acc"),
        tenant_id=new_id("ten"),
        roles=[api.ROLE_OWNER],
        scopes=SCOPES,
        api_key_id=new_id("key"),
        plan="free",
    )


def a_part(service: str, **over: Any) -> Caller:
    """A part of the platform as itself, for example `gateway`."""
    return _caller(over, kind=Caller.KIND_SERVICE, service=service)


class Impersonation(Identity):
    """Calls as `caller`, whoever that is."""

    def __init__(self, caller: Caller, key: CallerKey = CALLER_KEY) -> None:
        super().__init__(caller.service or "gateway", key)
        self.caller = caller

    def metadata(self, audience: str, caller: Caller | None = None) -> tuple[str, bytes]:
        return super().metadata(audience, caller or self.caller)


def _caller(over: dict[str, Any], **usual: Any) -> Caller:
    return Caller(**{"request_id": new_id("req"), "client_address": "192.0.2.1", **usual, **over})
