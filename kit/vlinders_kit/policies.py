"""Who may call what: the policy option of an RPC, held against the caller."""

from collections.abc import Container
from functools import cache

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders_kit.errors import PermissionDenied, Unauthenticated

UNDECLARED = api.Policy()


class CredentialRequired(Unauthenticated):
    """Sign in or show an API key."""


class NotPermitted(PermissionDenied):
    """The credential does not permit this operation."""


@cache
def method_of(path: str) -> MethodDescriptor | None:
    """The descriptor of `/package.Service/Method`, or None for one that is not ours."""
    service, _, method = path.lstrip("/").partition("/")
    try:
        found = descriptor_pool.Default().FindServiceByName(service)
    except KeyError:
        return None
    return found.methods_by_name.get(method)


def policy_of(method: MethodDescriptor | None) -> api.Policy:
    """Its declared policy; what declares none is denied to everybody."""
    if method is None:
        return UNDECLARED
    policy: api.Policy = method.GetOptions().Extensions[api.policy]  # type: ignore[index]
    return policy


def holds(scopes: Container[str], scope: str) -> bool:
    """Whether whoever has `scopes` has `scope`: `all:read` is each that ends in `:read`."""
    return scope in scopes or f"all:{scope.rpartition(':')[2]}" in scopes


def require(policy: api.Policy, caller: Caller) -> None:
    """Raises CredentialRequired or NotPermitted unless `policy` lets `caller` in."""
    if policy.access == api.ACCESS_PUBLIC:
        return
    if policy.access == api.ACCESS_SERVICE:
        if caller.kind != Caller.KIND_SERVICE or caller.service not in policy.services:
            raise NotPermitted
        return
    if policy.access != api.ACCESS_CALLER:
        raise NotPermitted
    if caller.kind == Caller.KIND_API_KEY:
        if not policy.scope or not holds(caller.scopes, policy.scope):
            raise NotPermitted
    elif caller.kind != Caller.KIND_USER:
        raise CredentialRequired
    if policy.role and max(caller.roles, default=0) < policy.role:
        raise NotPermitted
