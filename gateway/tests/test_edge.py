"""The edge: what every request passes and every answer carries."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from vlinders.auth.v1.accounts_pb2 import Account
from vlinders.auth.v1.identity_pb2 import IntrospectResponse
from vlinders_gateway.edge import Rules
from vlinders_gateway.identity import LIFETIME
from vlinders_gateway.testing import (
    Running,
    Script,
    assert_refused,
    bearer,
    gateway,
    spoken,
    status_of,
    token_keys,
)
from vlinders_kit import trace_ids, tracing
from vlinders_kit.clock import ManualClock
from vlinders_kit.testing import a_user
from vlinders_kit.testing.spans import collector

pytestmark = pytest.mark.anyio


class TestEveryAnswer:
    async def test_names_its_request_and_believes_no_name_from_outside(
        self, running: Running, key: str
    ) -> None:
        answers = [
            await running.http.get(path, headers={**bearer(key), "X-Request-Id": "req_evil"})
            for path in ("/v1/users/me", "/v1/nowhere", "/docs", "/healthz", "/")
        ]
        names = [answer.headers["x-request-id"] for answer in answers]
        assert all(re.fullmatch(r"req_[A-Za-z0-9]{22}", name) for name in names)
        assert len(set(names)) == len(names)

    async def test_is_kept_by_no_cache_since_it_may_hold_a_secret(
        self, running: Running, key: str
    ) -> None:
        answer = await running.http.get("/v1/users/me", headers=bearer(key))
        assert answer.headers["cache-control"] == "no-store"

    async def test_tells_the_limit_whether_it_succeeds_or_fails(self, running: Running) -> None:
        running.script.answers["GetMyAccount"] = Account(id="user_1")
        free = running.script.user_key(plan="free")
        remaining = []
        for method, path in (
            ("GET", "/v1/users/me"),
            ("GET", "/v1/nowhere"),
            ("POST", "/v1/users/me"),
            ("GET", "/v1/operator/workers"),
            ("GET", "/v1/api-keys?page=0"),
        ):
            answer = await running.http.request(method, path, headers=bearer(free))
            assert answer.headers["x-ratelimit-limit"] == "10"
            remaining.append(answer.headers["x-ratelimit-remaining"])
        assert remaining == ["9", "8", "7", "6", "5"]

    async def test_over_the_limit_says_when_to_come_back(self, running: Running) -> None:
        running.script.answers["GetMyAccount"] = Account(id="user_1")
        free = running.script.user_key(plan="free")
        for _ in range(10):
            await running.http.get("/v1/users/me", headers=bearer(free))

        refused = await running.http.get("/v1/users/me", headers=bearer(free))

        assert_refused(refused, 429, "rate_limit_exceeded")
        wait = int(refused.headers["retry-after"])
        assert 1 <= wait <= 60
        assert refused.json()["error"]["retry_after"] == wait
        assert refused.headers["x-ratelimit-remaining"] == "0"
        assert len(running.script.requests("GetMyAccount")) == 10


class TestOrder:
    async def test_the_rate_comes_before_the_credential(self, running: Running) -> None:
        headers = {"X-Forwarded-For": "203.0.113.9"}
        for _ in range(100):
            answer = await running.http.get("/v1/users/me", headers=headers)
            assert answer.status_code == 401
        assert_refused(
            await running.http.get("/v1/users/me", headers=headers), 429, "rate_limit_exceeded"
        )
        other = await running.http.get("/v1/users/me", headers={"X-Forwarded-For": "203.0.113.8"})
        assert other.status_code == 401

    async def test_guessing_keys_stops_asking_auth(self, running: Running) -> None:
        from vlinders_kit import api_keys

        headers = {"X-Forwarded-For": "203.0.113.7"}
        for _ in range(130):
            guess = headers | bearer(api_keys.new())
            await running.http.get("/v1/users/me", headers=guess)
        assert len(running.script.requests("Introspect")) == 101

    async def test_whoever_shares_an_address_with_a_guesser_goes_on(
        self, script: Script, valkey: str
    ) -> None:
        script.answers["GetMyAccount"] = Account(id="user_1")
        key, who = script.user_key(), a_user(plan="operator")
        token = token_keys(script).sign(who)
        script.credentials[who.session_id] = IntrospectResponse(caller=who)
        clock = ManualClock(moment=datetime.now(UTC))
        headers = {"X-Forwarded-For": "203.0.113.6"}
        async with gateway(script, valkey, clock=clock) as running:
            await running.http.get("/v1/users/me", headers=headers | bearer(key))
            for _ in range(101):
                refused = await running.http.get("/v1/users/me", headers=headers)
            clock.advance(LIFETIME)

            for shown in (key, token):
                answer = await running.http.get("/v1/users/me", headers=headers | bearer(shown))
                assert answer.status_code == 200
        assert refused.status_code == 429

    async def test_the_credential_comes_before_the_permission_and_that_before_validation(
        self, running: Running
    ) -> None:
        bad = {"json": {"name": 1}}
        assert (await running.http.post("/v1/api-keys", **bad)).status_code == 401
        key = running.script.key()
        answer = await running.http.post("/v1/api-keys", headers=bearer(key), **bad)
        assert answer.status_code == 403
        user = running.script.user_key()
        answer = await running.http.post("/v1/api-keys", headers=bearer(user), **bad)
        assert answer.status_code == 400

    async def test_public_writes_are_counted_by_address(self, running: Running) -> None:
        headers = {"X-Forwarded-For": "2001:db8::1"}
        neighbour = {"X-Forwarded-For": "2001:db8::2"}
        for _ in range(30):
            answer = await running.http.post("/v1/auth/login", json={}, headers=headers)
            assert answer.status_code == 400
        answer = await running.http.post("/v1/auth/login", json={}, headers=neighbour)
        assert_refused(answer, 429, "rate_limit_exceeded")


class TestRouting:
    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/v1/users/me", 200),
            ("/vlinders/v1/users/me", 200),
            ("/v1/users%2Fme", 404),
            ("/v1//users/me", 404),
            ("//v1/users/me", 404),
            ("/v1/users/me/", 404),
            ("/V1/users/me", 404),
            ("/v1/./users/me", 404),
            ("/v1/x/../users/me", 404),
            ("/v1/users/me%00", 404),
            ("/v1/users/m%65", 200),
            ("/vlindersv1/users/me", 404),
        ],
    )
    async def test_an_address_is_what_it_says_and_nothing_near_it(
        self, running: Running, key: str, path: str, status: int
    ) -> None:
        sent = b"GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n"
        answer = await spoken(running.port, sent % (path.encode(), key.encode()))
        assert status_of(answer) == status

    async def test_a_wrong_method_says_which_would_do(self, running: Running, key: str) -> None:
        answer = await running.http.put("/v1/users/me", headers=bearer(key))
        assert_refused(answer, 405, "not_found")
        assert answer.headers["allow"] == "GET, HEAD, PATCH"

    async def test_a_method_in_a_header_is_no_method(self, running: Running, key: str) -> None:
        headers = {**bearer(key), "X-HTTP-Method-Override": "DELETE"}
        assert (await running.http.get("/v1/users/me", headers=headers)).status_code == 200


class TestCors:
    PREFLIGHT = {"Access-Control-Request-Method": "PATCH"}  # noqa: RUF012

    @pytest.mark.parametrize("origin", ["http://localhost:3000", "http://localhost"])
    async def test_an_origin_that_may_is_told_what_it_may(
        self, running: Running, origin: str
    ) -> None:
        answer = await running.http.options(
            "/v1/users/me", headers={**self.PREFLIGHT, "Origin": origin}
        )
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == origin
        assert "PATCH" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "Authorization, Content-Type"
        assert "access-control-allow-credentials" not in answer.headers

    @pytest.mark.parametrize(
        "origin",
        ["https://evil.example", "http://localhost.evil.example", "http://localhost:1:2", "null"],
    )
    async def test_any_other_is_told_nothing(self, running: Running, origin: str) -> None:
        for method in ("OPTIONS", "GET"):
            answer = await running.http.request(
                method, "/v1/users/me", headers={**self.PREFLIGHT, "Origin": origin}
            )
            assert not [name for name in answer.headers if name.startswith("access-control")]

    async def test_answers_may_be_read_refusals_too(self, running: Running) -> None:
        answer = await running.http.get("/v1/users/me", headers={"Origin": "http://localhost:1"})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "http://localhost:1"
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        assert answer.headers["vary"] == "Origin"


class TestProxies:
    async def test_only_a_trusted_one_is_believed_about_the_client(
        self, script: Script, valkey: str
    ) -> None:
        key = script.user_key()
        script.answers["GetMyAccount"] = Account(id="user_1")
        headers = {**bearer(key), "X-Forwarded-For": "203.0.113.5, 10.0.0.1"}
        for trusted, expected in ((("127.0.0.0/8",), "203.0.113.5"), ((), "127.0.0.1")):
            async with gateway(script, valkey, rules=Rules(trusted=trusted)) as running:
                await running.http.get("/v1/users/me", headers=headers)
            assert script.asked[-1][2].client_address == expected

    async def test_nonsense_is_not_believed(self, running: Running, key: str) -> None:
        await running.http.get(
            "/v1/users/me", headers={**bearer(key), "X-Forwarded-For": "unknown; DROP TABLE"}
        )
        assert running.script.asked[-1][2].client_address == "127.0.0.1"


async def test_too_many_at_once_are_refused_at_once(script: Script, valkey: str) -> None:
    async with gateway(script, valkey, rules=Rules(most_running=0)) as running:
        answer = await running.http.get("/v1/models")
        assert_refused(answer, 503, "internal_error")
        assert answer.headers["retry-after"] == "1"
        assert running.edge.running == 0


async def test_a_fault_of_ours_tells_nothing_of_itself(running: Running, key: str) -> None:
    running.script.answers["GetMyAccount"] = RuntimeError("secret of the database")
    answer = await running.http.get("/v1/users/me", headers=bearer(key))
    assert_refused(answer, 500, "internal_error")
    assert "secret" not in answer.text


async def test_a_service_that_is_away_is_told_without_our_addresses(
    script: Script, valkey: str
) -> None:
    import grpc

    from vlinders_gateway.failures import refusal_of

    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/x.Y/Z")(b"", timeout=2)
    refusal = refusal_of(caught.value)
    assert (refusal.http, refusal.retry_after) == (503, 1)
    assert "127.0.0.1" not in refusal.message


async def test_a_trusted_proxys_trace_goes_on_to_the_services(script: Script, valkey: str) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {**bearer(script.user_key()), "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    heard = []

    async def listen(request: Any, context: Any) -> Account:
        heard.extend(
            value for name, value in context.invocation_metadata() if name == "traceparent"
        )
        return Account(id="user_1")

    script.answers["GetMyAccount"] = listen
    with collector() as sink:
        tracing.export("vlinders.gateway", sink.endpoint, sampled=0.0)
        for trusted in (("127.0.0.0/8",), ()):
            rules = Rules(trusted=trusted, traced=True)
            async with gateway(script, valkey, rules=rules) as running:
                answer = await running.http.get("/v1/users/me", headers=headers)
                assert answer.status_code == 200
        await tracing.close()
    (span,) = [span for span in sink.spans if span.name == "GetMyAccount"]
    assert [value.split("-")[1] for value in heard] == [trace] == [span.trace_id]
    assert span.attributes["http.response.status_code"] == 200


async def test_a_fault_of_ours_is_traced_although_nobody_chose_it(
    script: Script, valkey: str
) -> None:
    script.answers["GetMyAccount"] = RuntimeError("secret of the database")
    with collector() as sink:
        tracing.export("vlinders.gateway", sink.endpoint, sampled=0.0)
        async with gateway(script, valkey, rules=Rules(traced=True)) as running:
            headers = bearer(script.user_key())
            answer = await running.http.get("/v1/users/me", headers=headers)
            await running.http.get("/v1/nowhere", headers=headers)
        await tracing.close()
    (span,) = sink.spans
    assert span.attributes["error.type"] == "500"
    assert span.trace_id == trace_ids.trace_of(answer.headers["x-request-id"])
    assert b"secret of the database" not in b"".join(sink.raw)
