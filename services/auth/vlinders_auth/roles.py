"""Roles: what an account may do in its tenant, and so what its API keys may."""

from collections.abc import Collection, Iterable

from vlinders.api.v1 import options_pb2 as api
from vlinders_kit.policies import holds

OF_SIGN_UP = (api.ROLE_OWNER, api.ROLE_DEVELOPER)
"""Whoever signs up owns the tenant that comes with it."""

OF_OPERATOR = (api.ROLE_OWNER, api.ROLE_ADMIN, api.ROLE_DEVELOPER, api.ROLE_OPERATOR)

_VIEWERS = frozenset({"account:read", "account:write", "all:read", "inference:read", "usage:read"})
_EVERYTHING = _VIEWERS | {"all:write", "inference:write"}


def scopes_of(roles: Iterable[int]) -> frozenset[str]:
    """What an API key of an account with `roles` may be allowed: a viewer's cannot spend."""
    return _EVERYTHING if max(roles) >= api.ROLE_DEVELOPER else _VIEWERS


def granted(permissions: Collection[str], roles: Iterable[int]) -> frozenset[str]:
    """What a key with `permissions` may do today, its maker having `roles`."""
    return frozenset(scope for scope in scopes_of(roles) if holds(permissions, scope))


def shown(roles: Iterable[int]) -> list[int]:
    """The roles within the tenant. Who runs the platform shows as its administrator."""
    return [role for role in roles if role != api.ROLE_OPERATOR]
