"""What other services know of the things in an answer."""

from typing import Any

import pytest

from vlinders.api.v1 import options_pb2 as api
from vlinders.api.v1.caller_pb2 import Caller
from vlinders.auth.v1.accounts_pb2 import Account, ListAccountsResponse
from vlinders.billing.v1.ledger_pb2 import GetWalletsResponse, Wallet
from vlinders_gateway.testing import Running, bearer
from vlinders_kit.errors import Unavailable

pytestmark = pytest.mark.anyio

LIST = "/massrouter/api/v1/admin/users"


def operator(running: Running) -> dict[str, str]:
    return bearer(running.script.user_key(roles=[api.ROLE_OPERATOR]))


def accounts(*tenants: str) -> ListAccountsResponse:
    rows = [Account(id=f"user_{n}", tenant_id=tenant) for n, tenant in enumerate(tenants)]
    return ListAccountsResponse(accounts=rows, page=api.PageInfo(total=len(rows)))


async def test_a_list_asks_once_and_in_bulk_as_the_gateway_itself(running: Running) -> None:
    running.script.answers["ListAccounts"] = accounts("ten_2", "ten_1", "ten_3", "ten_1")
    wallets = [Wallet(tenant_id=f"ten_{n}", balance_nanos=n * 10**9) for n in (1, 2)]
    running.script.answers["GetWallets"] = GetWalletsResponse(wallets=wallets)

    answer = await running.http.get(LIST, headers=operator(running))

    shown: list[Any] = answer.json()["data"]["items"]
    assert [row["balance"] for row in shown] == [2.0, 1.0, 0.0, 1.0]
    [(_, request, caller)] = [row for row in running.script.asked if row[0] == "GetWallets"]
    assert list(request.tenant_ids) == ["ten_1", "ten_2", "ten_3"]  # type: ignore[attr-defined]
    assert (caller.kind, caller.service) == (Caller.KIND_SERVICE, "gateway")


async def test_an_empty_list_asks_nobody(running: Running) -> None:
    running.script.answers["ListAccounts"] = accounts()
    answer = await running.http.get(LIST, headers=operator(running))
    assert answer.json()["data"]["items"] == []
    assert running.script.requests("GetWallets") == []


async def test_nothing_is_made_up_while_the_other_service_is_away(
    running: Running, key: str
) -> None:
    running.script.answers["GetWallets"] = Unavailable()
    answer = await running.http.get("/api/users/me", headers=bearer(key))
    assert answer.status_code == 503
    assert answer.json()["error_code"] == "SERVER_UNAVAILABLE"


@pytest.mark.parametrize(
    ("nanos", "shown"),
    [(0, 0), (100_500_000_000, 100.5), (5_000_000, 0.01), (4_999_999, 0), (10**18, 10**9)],
)
async def test_money_is_shown_in_units_rounded_half_up(
    running: Running, key: str, nanos: int, shown: float
) -> None:
    wallet = Wallet(tenant_id="", balance_nanos=nanos)
    running.script.answers["GetWallets"] = GetWalletsResponse(wallets=[wallet])
    answer = await running.http.get("/api/users/me", headers=bearer(key))
    assert answer.json()["data"]["balance"] == shown
