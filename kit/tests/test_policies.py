"""Who may call what: each kind of caller against each kind of policy."""

import pytest

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders_kit.errors import AppError
from vlinders_kit.policies import UNDECLARED, NotPermitted, holds, method_of, policy_of, require
from vlinders_kit.testing import a_part, a_user, an_api_key

PUBLIC = api.Policy(access=api.ACCESS_PUBLIC)
USERS = api.Policy(access=api.ACCESS_CALLER)
SCOPED = api.Policy(access=api.ACCESS_CALLER, scope="usage:read")
ADMINS = api.Policy(access=api.ACCESS_CALLER, scope="usage:read", role=api.ROLE_ADMIN)
GATEWAY = api.Policy(access=api.ACCESS_SERVICE, services=["gateway"])
WORKERS = api.Policy(access=api.ACCESS_WORKER)

NOBODY = Caller(kind=Caller.KIND_ANONYMOUS)
OWNER, VIEWER = a_user(), a_user(roles=[api.ROLE_VIEWER])
KEY, NARROW = an_api_key(), an_api_key(scopes=["inference:read"])
READS, WRITES = an_api_key(scopes=["all:read"]), an_api_key(scopes=["all:write"])
VIEWERS_KEY = an_api_key(roles=[api.ROLE_VIEWER])


@pytest.mark.parametrize(
    ("policy", "caller"),
    [
        *((PUBLIC, caller) for caller in (NOBODY, OWNER, KEY)),
        *((USERS, caller) for caller in (OWNER, VIEWER)),
        *((SCOPED, caller) for caller in (OWNER, VIEWER, KEY, VIEWERS_KEY, READS)),
        *((ADMINS, caller) for caller in (OWNER, KEY, a_user(roles=[api.ROLE_OPERATOR]))),
        (GATEWAY, a_part("gateway")),
    ],
)
def test_who_is_meant_is_let_in(policy: api.Policy, caller: Caller) -> None:
    require(policy, caller)


@pytest.mark.parametrize(
    ("policy", "caller"),
    [
        *((UNDECLARED, caller) for caller in (NOBODY, OWNER, KEY, a_part("gateway"))),
        *((USERS, caller) for caller in (NOBODY, KEY, READS, WRITES, a_part("gateway"), Caller())),
        *((SCOPED, caller) for caller in (NOBODY, NARROW, WRITES, a_part("gateway"))),
        *((ADMINS, caller) for caller in (VIEWER, VIEWERS_KEY, NARROW, a_user(roles=[]))),
        *((GATEWAY, caller) for caller in (OWNER, KEY, a_part("inference"), a_part(""))),
        (GATEWAY, a_user(service="gateway")),
        *((WORKERS, caller) for caller in (OWNER, KEY, a_part("gateway"))),
    ],
)
def test_who_is_not_meant_is_refused(policy: api.Policy, caller: Caller) -> None:
    with pytest.raises(AppError) as refused:
        require(policy, caller)

    assert refused.value.reason in ("NOT_PERMITTED", "CREDENTIAL_REQUIRED")


@pytest.mark.parametrize(
    ("scopes", "scope", "held"),
    [
        (["usage:read"], "usage:read", True),
        (["all:read"], "usage:read", True),
        (["all:write"], "account:write", True),
        (["all:read"], "account:write", False),
        (["all:read", "all:write"], "usage:delete", False),
        (["usage:read"], "all:read", False),
        ([], "usage:read", False),
    ],
)
def test_all_of_a_kind_is_each_of_it(scopes: list[str], scope: str, held: bool) -> None:
    assert holds(scopes, scope) == held


def test_what_is_not_ours_is_declared_by_nobody() -> None:
    with pytest.raises(NotPermitted):
        require(policy_of(method_of("/made.up.Service/Call")), OWNER)
