"""Where each dialect stands: its prefix, what it has of the root, and the hosts of its own."""

from typing import Any

import pytest

from vlinders.auth.v1.accounts_pb2 import Account
from vlinders.billing.v1.ledger_pb2 import GetWalletsResponse
from vlinders_gateway import mounts
from vlinders_gateway.bodies import Limits as BodyLimits
from vlinders_gateway.dialects import DIALECTS, Dialect
from vlinders_gateway.edge import Rules
from vlinders_gateway.openapi import document
from vlinders_gateway.testing import Running, Script, bearer, gateway

pytestmark = pytest.mark.anyio

PROFILES = {
    "vlinders": "/v1/users/me",
    "maas": "/api/v1/users/profile",
    "massrouter": "/api/v1/users/me",
    "lyss": "/api/v1/auth/me",
    "owl": "/api/users/me",
}
"""Dialect → where a client of it finds its own account."""

HOSTS = {f"api.{name}.example": name for name in PROFILES}


def code_of(answer: Any) -> str:
    """The code of a refusal, wherever its envelope has it."""
    told: dict[str, Any] = answer.json()
    return str(told["error_code"] if "error_code" in told else told["error"]["code"])


NOT_FOUND = {
    "vlinders": "not_found",
    "maas": "NOT_FOUND",
    "massrouter": "ERR_004",
    "lyss": "NOT_FOUND",
    "owl": "RESOURCE_NOT_FOUND",
}

INVALID = {
    "vlinders": "invalid_request",
    "maas": "INVALID_REQUEST",
    "massrouter": "ERR_001",
    "lyss": "VALIDATION_ERROR",
    "owl": "VALIDATION_ERROR",
}


@pytest.mark.parametrize(
    ("path", "name", "mount"),
    [
        ("/", "vlinders", ""),
        ("/v1/users/me", "vlinders", ""),
        ("/vlinders/v1/users/me", "vlinders", "/vlinders"),
        ("/vlindersx/v1/users/me", "vlinders", ""),
        ("/maas/api/v1/users/profile", "maas", "/maas"),
        ("/maas", "maas", "/maas"),
        ("/maasx", "vlinders", ""),
        ("/massrouter/nowhere", "massrouter", "/massrouter"),
        ("/lyss/docs", "lyss", "/lyss"),
        ("/owl/api/users/me", "owl", "/owl"),
        ("/api/users/me", "owl", ""),
        ("/api", "owl", ""),
        ("/apis", "vlinders", ""),
        ("/api/v1", "vlinders", ""),
        ("/api/v1/users/me", "vlinders", ""),
        ("/api/v10", "owl", ""),
    ],
)
def test_a_path_belongs_to_one_dialect(path: str, name: str, mount: str) -> None:
    dialect, before = mounts.at(path)
    assert (dialect.name, before) == (name, mount)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
class TestEvery:
    async def test_serves_its_paths_under_each_of_its_mounts(
        self, running: Running, key: str, dialect: Dialect
    ) -> None:
        for mount in dialect.mounts:
            answer = await running.http.get(mount + PROFILES[dialect.name], headers=bearer(key))
            assert answer.status_code == 200
        assert asked_through(running) == dialect.name

    async def test_refuses_in_its_own_envelope(self, running: Running, dialect: Dialect) -> None:
        mount = dialect.mounts[0]
        for method, path, status in (
            ("GET", f"{mount}/nowhere", 404),
            ("GET", f"{mount}/v1/api/nowhere", 404),
            ("PUT", f"{mount}/healthz", 404),
            ("DELETE", mount + PROFILES[dialect.name], 405),
        ):
            answer = await running.http.request(method, path)
            assert (answer.status_code, code_of(answer)) == (status, NOT_FOUND[dialect.name])

    async def test_refuses_malformed_json_in_its_own_envelope(
        self, running: Running, dialect: Dialect
    ) -> None:
        _, verb, path = next(row for row in dialect.places() if row[0].name == "Login")
        for sent in (b"{", b"[]", b'{"a": NaN}', b"\xff"):
            answer = await running.http.request(verb, dialect.mounts[0] + path, content=sent)
            assert answer.status_code == (422 if dialect.name == "owl" else 400)
            assert code_of(answer) == INVALID[dialect.name]

    async def test_tells_faults_of_ours_without_a_word_of_them(
        self, running: Running, key: str, dialect: Dialect
    ) -> None:
        running.script.answers["GetMyAccount"] = RuntimeError("SELECT secret FROM account")
        path = dialect.mounts[0] + PROFILES[dialect.name]
        answer = await running.http.get(path, headers=bearer(key))
        assert answer.status_code == 500
        assert "INTERNAL" in code_of(answer).upper() or code_of(answer) == "ERR_005"
        assert "SELECT" not in answer.text

    async def test_has_its_documents_below_its_own_mount(
        self, running: Running, dialect: Dialect
    ) -> None:
        mount = dialect.mounts[0]
        told = await running.http.get(f"{mount}/openapi.json")
        assert told.json() == document(dialect)
        for page in ("/docs", "/redoc"):
            shown = await running.http.get(mount + page)
            assert shown.headers["content-type"] == "text/html; charset=utf-8"
            assert dialect.title in shown.text


async def test_the_root_of_three_systems_is_nobodys(running: Running, key: str) -> None:
    for path in ("/api/v1/users/me", "/api/v1/auth/login", "/api/v1/anything"):
        answer = await running.http.get(path, headers=bearer(key))
        assert (answer.status_code, code_of(answer)) == (404, "not_found")


class TestHosts:
    @pytest.fixture
    async def hosted(self, script: Script, valkey: str) -> Any:
        script.answers["GetMyAccount"] = Account(id="user_1")
        script.answers["GetWallets"] = GetWalletsResponse()
        async with gateway(script, valkey, rules=Rules(hosts=HOSTS)) as running:
            yield running

    @pytest.mark.parametrize(("host", "name"), HOSTS.items())
    async def test_have_a_systems_own_paths_at_the_root(
        self, hosted: Running, host: str, name: str
    ) -> None:
        key = hosted.script.user_key()
        for spelt in (host, f"{host}:8080", host.upper()):
            headers = bearer(key) | {"Host": spelt}
            answer = await hosted.http.get(PROFILES[name], headers=headers)
            assert answer.status_code == 200
            assert asked_through(hosted) == name
        refused = await hosted.http.get("/nowhere", headers={"Host": host})
        assert (refused.status_code, code_of(refused)) == (404, NOT_FOUND[name])
        told = await hosted.http.get("/openapi.json", headers={"Host": host})
        assert told.json()["info"]["title"] == hosted_dialect(name).title

    async def test_have_no_other_systems_paths(self, hosted: Running) -> None:
        for path in ("/v1/users/me", "/owl/api/users/me", "/lyss/api/v1/auth/me"):
            answer = await hosted.http.get(path, headers={"Host": "api.lyss.example"})
            assert (answer.status_code, code_of(answer)) == (404, "NOT_FOUND")
            assert "success" in answer.json()

    async def test_leave_all_other_hosts_as_they_are(self, hosted: Running) -> None:
        key = hosted.script.user_key()
        for host in ("127.0.0.1", "lyss.example", "evil-api.lyss.example", "api.lyss.example.evil"):
            headers = bearer(key) | {"Host": host}
            assert (await hosted.http.get("/v1/users/me", headers=headers)).status_code == 200

    async def test_are_asked_whether_the_gateway_is_there(self, hosted: Running) -> None:
        answer = await hosted.http.get("/healthz", headers={"Host": "api.lyss.example"})
        assert answer.text == "alive\n"


def asked_through(running: Running) -> str:
    """The dialect that the last question for an account came by, as its service was told."""
    return [who.dialect for name, _, who in running.script.asked if name == "GetMyAccount"][-1]


def hosted_dialect(name: str) -> Dialect:
    return next(dialect for dialect in DIALECTS if dialect.name == name)


async def test_a_body_that_is_too_large_is_refused_in_the_envelope_of_its_mount(
    script: Script, valkey: str
) -> None:
    async with gateway(script, valkey, bodies=BodyLimits(most_bytes=1024)) as running:
        for path, code in (
            ("/maas/api/v1/auth/token", "INVALID_REQUEST"),
            ("/massrouter/api/v1/auth/login", "ERR_001"),
            ("/lyss/api/v1/auth/login", "VALIDATION_ERROR"),
            ("/api/auth/login", "VALIDATION_ERROR"),
        ):
            answer = await running.http.post(path, content=b"x" * 2048)
            assert (answer.status_code, code_of(answer)) == (413, code)
