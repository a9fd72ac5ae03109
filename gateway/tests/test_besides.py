"""What a request asks of another operation besides its own."""

from typing import Any

import pytest

from vlinders.api.v1 import options_pb2 as api
from vlinders.auth.v1.accounts_pb2 import Account
from vlinders.billing.v1.ledger_pb2 import GetWalletsResponse, Wallet
from vlinders_gateway.testing import Running, bearer
from vlinders_kit.errors import FailedPrecondition, NotFound, Violation

pytestmark = pytest.mark.anyio

USER = "/api/admin/users/0b7f6f43-3b5e-4f0e-8d0a-6c0f9f1f8a22"


class Held(FailedPrecondition):
    """It is held."""

    @property
    def violations(self) -> tuple[Violation, ...]:
        return (Violation("balance_nanos", str(self), "BALANCE_HELD"),)


@pytest.fixture(autouse=True)
def answers(running: Running) -> None:
    wallet = Wallet(tenant_id="tenant_1", balance_nanos=2_500_000_000)
    running.script.answers |= {
        "UpdateAccount": Account(tenant_id="tenant_1", username="u"),
        "SetWalletBalance": wallet,
        "GetWallets": GetWalletsResponse(wallets=[wallet]),
    }


async def put(running: Running, body: dict[str, Any]) -> Any:
    operator = bearer(running.script.user_key(roles=[api.ROLE_OPERATOR]))
    return await running.http.put(USER, json=body, headers=operator)


async def test_is_asked_after_its_own_for_whom_that_was_about(running: Running) -> None:
    answer = await put(running, {"role": "admin", "balance": 2.5})

    told = [(name, who.kind) for name, _, who in running.script.asked if name != "Introspect"]
    assert [name for name, _ in told] == ["UpdateAccount", "SetWalletBalance", "GetWallets"]
    assert told[0][1] == told[1][1], "on behalf of the same caller"
    [request] = running.script.requests("SetWalletBalance")
    assert (request.tenant_id, request.balance_nanos) == ("tenant_1", 2_500_000_000)
    assert answer.json()["data"]["balance"] == 2.5


@pytest.mark.parametrize("body", [{}, {"is_active": True}, {"balance": None}, {"tenant_id": "t"}])
async def test_is_not_asked_where_the_body_has_nothing_of_it(
    running: Running, body: dict[str, Any]
) -> None:
    assert (await put(running, body)).status_code == 200
    assert running.script.requests("SetWalletBalance") == []


async def test_of_nothing_is_something(running: Running) -> None:
    await put(running, {"balance": 0})
    [request] = running.script.requests("SetWalletBalance")
    assert request.HasField("balance_nanos")


@pytest.mark.parametrize("balance", [-0.01, 0.001, "1", True, [], 1e30, 1e300, 10**10])
async def test_all_is_checked_before_anything_is_done(running: Running, balance: Any) -> None:
    answer = await put(running, {"role": "owner", "balance": balance})
    faults = answer.json()["details"]["field_errors"]
    assert (answer.status_code, set(faults)) == (422, {"role", "balance"})
    assert running.script.requests("UpdateAccount") == []


async def test_is_not_asked_where_its_own_has_failed(running: Running) -> None:
    running.script.answers["UpdateAccount"] = NotFound()
    assert (await put(running, {"balance": 1})).status_code == 404
    assert running.script.requests("SetWalletBalance") == []


async def test_its_failure_is_told_in_the_dialects_names_and_words(running: Running) -> None:
    running.script.answers["SetWalletBalance"] = Held()
    answer = await put(running, {"balance": 1})
    assert answer.status_code == 422
    assert answer.json()["details"] == {"field_errors": {"balance": ["余额已被进行中的请求占用"]}}
