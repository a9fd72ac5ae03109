"""Requests as they are read: each fault told, in the words of the dialect that was asked."""

from typing import Any

import pytest

from vlinders.api.v1 import options_pb2 as api
from vlinders.auth.v1.accounts_pb2 import Account, ListAccountsResponse
from vlinders.auth.v1.sessions_pb2 import LogoutResponse, SignIn
from vlinders_gateway.testing import Running, bearer
from vlinders_kit.errors import InvalidRequest, Violation

pytestmark = pytest.mark.anyio

REFRESH = "/massrouter/api/v1/auth/refresh"
LONG = "x" * 5000


class TestCredentialsThatAreFields:
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    async def test_are_taken_out_of_the_head(self, running: Running, scheme: str) -> None:
        running.script.answers["RotateSession"] = SignIn(access_token="t")
        answer = await running.http.post(REFRESH, headers={"Authorization": f"{scheme} vrt_1"})
        assert answer.status_code == 200
        [request] = running.script.requests("RotateSession")
        assert request.refresh_token == "vrt_1"

    @pytest.mark.parametrize("shown", [None, "", "Bearer", "vrt_1", "Basic dnJ0", LONG])
    async def test_are_refused_as_credentials_are(
        self, running: Running, shown: str | None
    ) -> None:
        headers = {} if shown is None else {"Authorization": shown}
        answer = await running.http.post(REFRESH, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "ERR_002")

    async def test_are_refused_where_they_cannot_be_any(self, running: Running) -> None:
        answer = await running.http.post(REFRESH, headers=bearer(LONG))
        assert answer.status_code == 401
        assert running.script.requests("RotateSession") == []

    async def test_are_those_of_the_head_whatever_the_body_says(self, running: Running) -> None:
        running.script.answers["RotateSession"] = SignIn(access_token="t")
        await running.http.post(REFRESH, headers=bearer("vrt_1"), json={"refresh_token": "vrt_2"})
        [request] = running.script.requests("RotateSession")
        assert request.refresh_token == "vrt_1"

    async def test_are_not_read_out_of_the_body(self, running: Running) -> None:
        answer = await running.http.post(REFRESH, json={"refresh_token": "vrt_1"})
        assert answer.status_code == 401


class TestSorting:
    """By the names that a dialect has for the fields of a list."""

    @pytest.mark.parametrize(
        ("path", "sort"),
        [
            ("/v1/operator/accounts?sort=-created_at", "-created_at"),
            ("/lyss/api/v1/admin/users?sort=username", "username"),
            ("/api/admin/users?sort_by=created_at&sort_order=desc", "-created_at"),
            ("/massrouter/api/v1/admin/users?sort_by=email", "email"),
        ],
    )
    async def test_is_asked_for_by_the_contracts_name(
        self, running: Running, path: str, sort: str
    ) -> None:
        running.script.answers["ListAccounts"] = ListAccountsResponse()
        await running.http.get(path, headers=operator(running))
        [request] = running.script.requests("ListAccounts")
        assert request.page.sort == sort

    @pytest.mark.parametrize("field", ["last_login", "full_name", "tenant", "-", "--email"])
    async def test_by_anything_else_is_refused(self, running: Running, field: str) -> None:
        path = f"/api/admin/users?sort_by={field}"
        answer = await running.http.get(path, headers=operator(running))
        assert (answer.status_code, faults(answer)) == (422, {"sort_by": ["不支持按该字段排序"]})

    async def test_that_a_service_refuses_is_told_under_the_dialects_word(
        self, running: Running
    ) -> None:
        running.script.answers["ListAccounts"] = InvalidRequest(
            broken=(Violation("sort", "must be one of created_at"),)
        )
        path = "/api/admin/users?sort_by=username"
        answer = await running.http.get(path, headers=operator(running))
        assert set(faults(answer)) == {"sort_by"}


async def test_a_fault_is_told_of_the_field_that_has_it_and_no_other(running: Running) -> None:
    """What stands beside a field of another type is there."""
    form = {"email": 5, "username": "ada", "password": "four"}
    answer = await running.http.post("/owl/api/auth/register", json=form)
    assert set(faults(answer)) == {"email", "password"}


async def test_what_is_hidden_is_not_read(running: Running) -> None:
    """A client cannot set by guessing its name what its API does not have."""
    running.script.answers["ListAccounts"] = ListAccountsResponse()
    await running.http.get("/api/admin/users?status=suspended&search=x", headers=operator(running))
    [request] = running.script.requests("ListAccounts")
    assert (request.HasField("status"), request.search) == (False, "x")


async def test_a_path_names_a_field_once_and_for_all(running: Running) -> None:
    """Neither the body nor the query says another."""
    running.script.answers["SetAccountStatus"] = InvalidRequest(broken=())
    await running.http.put(
        "/massrouter/api/v1/admin/users/user_1/status?user_id=user_3",
        json={"user_id": "user_2", "status": "active"},
        headers=operator(running),
    )
    [request] = running.script.requests("SetAccountStatus")
    assert request.account_id == "user_1"


def operator(running: Running) -> dict[str, str]:
    return bearer(running.script.user_key(roles=[api.ROLE_OPERATOR]))


def faults(answer: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = answer.json()["details"]["field_errors"]
    return found


async def test_a_body_that_may_lack_each_field_may_not_lack_itself(
    running: Running, key: str
) -> None:
    running.script.answers["UpdateMyAccount"] = Account()
    empty = await running.http.put("/maas/api/v1/users/profile", headers=bearer(key))
    assert (empty.status_code, empty.json()["error"]["code"]) == (400, "INVALID_REQUEST")
    answer = await running.http.put("/maas/api/v1/users/profile", headers=bearer(key), json={})
    assert answer.status_code == 200


async def test_a_request_without_fields_needs_no_body(running: Running, key: str) -> None:
    running.script.answers["Logout"] = LogoutResponse()
    answer = await running.http.post("/lyss/api/v1/auth/logout", headers=bearer(key))
    assert answer.status_code == 200
