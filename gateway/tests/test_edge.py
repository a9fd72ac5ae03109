"""The edge: what every request passes, and what becomes of one that is hostile or late."""

import asyncio
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from vlinders.auth.v1.accounts_pb2 import Account
from vlinders.auth.v1.identity_pb2 import IntrospectResponse
from vlinders.inference.v1.models_pb2 import ListModelsResponse
from vlinders_gateway import protocol
from vlinders_gateway.bodies import Limits as BodyLimits
from vlinders_gateway.bodies import deeper_than
from vlinders_gateway.dialects import CANONICAL
from vlinders_gateway.edge import Rules
from vlinders_gateway.exchange import EVENTS, Exchange
from vlinders_gateway.identity import LIFETIME
from vlinders_gateway.operations import named
from vlinders_gateway.testing import Running, Script, bearer, gateway, token_keys
from vlinders_kit.clock import ManualClock
from vlinders_kit.testing import a_user

pytestmark = pytest.mark.anyio


@pytest.fixture
def key(running: Running) -> str:
    running.script.answers["GetMyAccount"] = Account(id="user_1", email="a@example.com")
    running.script.answers["ListModels"] = ListModelsResponse(object="list")
    return running.script.user_key()


async def spoken(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """All that comes back for `pieces`, until the gateway closes or has answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        async with asyncio.timeout(10):
            return await _answer(reader)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        piece = await reader.read(65536)
        if not piece:
            return head
        head += piece
    length = re.search(rb"content-length: (\d+)", head)
    while length and len(head.partition(b"\r\n\r\n")[2]) < int(length[1]):
        head += await reader.read(65536)
    return head


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def assert_refused(answer: Any, status: int, code: str) -> None:
    """The documented envelope, whatever was refused and wherever."""
    if isinstance(answer, bytes):
        assert status_of(answer) == status
        head, _, body = answer.partition(b"\r\n\r\n")
        told, request_id = json.loads(body), re.search(rb"x-request-id: (\S+)", head)
        assert request_id is not None
        assert told["meta"]["request_id"] == request_id[1].decode()
    else:
        assert answer.status_code == status
        told = answer.json()
        assert told["meta"]["request_id"] == answer.headers["x-request-id"]
    assert told["error"]["code"] == code
    assert told["error"]["message"]
    assert set(told) == {"error", "meta"}


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


class TestBodies:
    @pytest.fixture
    def user(self, running: Running) -> dict[str, str]:
        return bearer(running.script.user_key())

    async def test_one_that_is_too_large_is_refused_by_its_word(
        self, running: Running, user: dict[str, str]
    ) -> None:
        answer = await running.http.post(
            "/v1/api-keys", content=b"x" * (10 * 1024 * 1024 + 1), headers=user
        )
        assert_refused(answer, 413, "invalid_request")

    async def test_one_that_grows_too_large_in_chunks_is_refused_as_it_grows(
        self, running: Running, user: dict[str, str]
    ) -> None:
        sent = 0

        async def endless() -> Any:
            nonlocal sent
            for _ in range(300):
                sent += 65536
                yield b" " * 65536

        answer = await running.http.post("/v1/api-keys", content=endless(), headers=user)
        assert_refused(answer, 413, "invalid_request")
        assert running.edge.limits.room == BodyLimits().room

    async def test_nesting_is_allowed_to_64_and_no_deeper(
        self, running: Running, user: dict[str, str]
    ) -> None:
        for depth, words in ((64, "JSON object"), (65, "deeper than 64"), (100_000, "deeper")):
            answer = await running.http.post(
                "/v1/api-keys", content=b"[" * depth + b"]" * depth, headers=user
            )
            assert_refused(answer, 400, "invalid_request")
            assert words in answer.json()["error"]["message"]

    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b"{]",
            b"nope",
            b'{"name": NaN}',
            b'{"name": 1e999999}',
            b'{"name": "\xff"}',
            b'{"name": "\\ud800"}',
            b'\xef\xbb\xbf{"name": "x"}',
            b'{"a": 1} {"b": 2}',
        ],
    )
    async def test_what_is_no_json_is_told_so(
        self, running: Running, user: dict[str, str], body: bytes
    ) -> None:
        answer = await running.http.post("/v1/api-keys", content=body, headers=user)
        assert_refused(answer, 400, "invalid_request")
        assert "details" not in answer.json()["error"]

    async def test_null_characters_and_huge_numbers_never_reach_a_service(
        self, running: Running, user: dict[str, str]
    ) -> None:
        body = {"name": "a\0b", "permissions": [2**80], "expires_at": 1e300}
        answer = await running.http.post("/v1/api-keys", json=body, headers=user)
        assert_refused(answer, 400, "invalid_request")
        fields = [row["field"] for row in answer.json()["error"]["details"]]
        assert fields == ["name", "permissions[0]", "expires_at"]
        assert running.script.requests("CreateApiKey") == []

    async def test_compressed_ones_are_not_unpacked(
        self, running: Running, user: dict[str, str]
    ) -> None:
        answer = await running.http.post(
            "/v1/api-keys", content=b"\x1f\x8b", headers={**user, "Content-Encoding": "gzip"}
        )
        assert_refused(answer, 415, "invalid_request")

    async def test_one_that_drips_is_ended_by_its_deadline(
        self, script: Script, valkey: str
    ) -> None:
        async with gateway(script, valkey, bodies=BodyLimits(seconds=0.2)) as running:
            head = "POST /v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
            answer = await spoken(running.port, head.encode(), b"{", pause=0.05)
            assert_refused(answer, 408, "invalid_request")

    async def test_those_that_come_together_have_only_so_much_room(
        self, script: Script, valkey: str
    ) -> None:
        async with gateway(script, valkey, bodies=BodyLimits(room=100_000)) as running:

            async def large() -> Any:
                for _ in range(4):
                    yield b" " * 50_000

            answer = await running.http.post("/v1/auth/login", content=large())
            assert_refused(answer, 503, "internal_error")
            assert answer.headers["retry-after"] == "1"

    async def test_a_client_that_leaves_amid_one_is_forgotten(
        self, running: Running, user: dict[str, str]
    ) -> None:
        head = b"POST /v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(head)
        await writer.drain()
        writer.close()
        async with asyncio.timeout(5):
            while running.edge.running:
                await asyncio.sleep(0.01)
        assert running.script.requests("Login") == []


@pytest.mark.parametrize(
    ("body", "depth"),
    [
        (b"", 0),
        (b"[]", 1),
        (b'{"a":[{"b":{}}]}', 4),
        (b'"[[[[[["', 0),
        (b'["]]]]", ["\\"[[[", ["\\\\", [1]]]]', 4),
        (b"[]" * 100_000 + b"[[[]]]", 3),
        (b'["' + b"[" * 70_000 + b'", [[]]]', 3),
        (b'{"' + b'a\\"' * 50_000 + b'": [[1]]}', 3),
    ],
)
def test_depth_is_counted_exactly(body: bytes, depth: int) -> None:
    assert not deeper_than(depth, body)
    assert depth == 0 or deeper_than(depth - 1, body)


GET = b"GET /v1/users/me HTTP/1.1\r\nHost: x\r\n"

MALFORMED = {
    "no http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "a line without a colon": GET + b"nonsense\r\n\r\n",
    "length and chunks": b"POST /v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
    b"Content-Length: 3\r\n\r\n{}}",
    "a length that is none": b"POST /v1/auth/login HTTP/1.1\r\nHost: x\r\n"
    b"Content-Length: -1\r\n\r\n",
    "an unknown transfer encoding": b"POST /v1/auth/login HTTP/1.1\r\nHost: x\r\n"
    b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": GET + b"Authorization : Bearer x\r\n\r\n",
    "no host": b"GET /v1/users/me HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: y\r\n\r\n",
    "a host with a path": b"GET /v1/users/me HTTP/1.1\r\nHost: x/../docs?\r\n\r\n",
    "two credentials": GET + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    "a path that is no text": b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_request_is_told_so(running: Running, sent: bytes) -> None:
    assert_refused(await spoken(running.port, sent), 400, "invalid_request")


async def test_a_query_that_is_no_text_is_told_so(running: Running, key: str) -> None:
    answer = await running.http.get("/v1/api-keys?a=%ff", headers=bearer(key))
    assert_refused(answer, 400, "invalid_request")


async def test_one_body_is_never_read_as_the_next_request(running: Running) -> None:
    smuggled = b"GET /v1/operator/workers HTTP/1.1\r\nHost: x\r\n\r\n"
    sent = (
        b"POST /v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled
    )
    answer = await spoken(running.port, sent)
    assert answer.count(b"content-type") == 1
    assert b"connection: close" in answer


@pytest.mark.parametrize(
    "headers",
    [b"X: " + b"a" * 40_000, b"\r\n".join(b"X-%d: a" % n for n in range(200))],
    ids=["large", "many"],
)
async def test_headers_have_a_size(running: Running, headers: bytes) -> None:
    assert_refused(await spoken(running.port, GET + headers + b"\r\n\r\n"), 431, "invalid_request")


async def test_an_endless_header_is_not_kept(running: Running) -> None:
    pieces = [GET, b"X: ", *([b"a" * 30_000] * 4)]
    assert_refused(await spoken(running.port, *pieces), 431, "invalid_request")


async def test_a_long_address_is_refused(running: Running) -> None:
    sent = b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    assert_refused(await spoken(running.port, sent), 431, "invalid_request")


async def test_a_head_that_drips_is_ended_by_its_deadline(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    assert_refused(await spoken(running.port, GET, b"X: ", b"a"), 408, "invalid_request")


async def test_a_connection_that_says_nothing_is_closed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    assert await spoken(running.port) == b""


async def test_a_kept_connection_has_a_new_deadline_for_each_head(
    running: Running, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    whole = GET + b"Authorization: Bearer " + key.encode() + b"\r\n\r\n"
    writer.write(whole)
    assert status_of(await _answer(reader)) == 200
    await asyncio.sleep(1.5)  # idle is not late: longer than any sweep takes
    writer.write(whole)
    assert status_of(await _answer(reader)) == 200
    writer.write(GET)
    async with asyncio.timeout(10):
        assert_refused(await _answer(reader), 408, "invalid_request")
    writer.close()


async def test_what_was_asked_before_nonsense_is_answered(running: Running, key: str) -> None:
    whole = GET + b"Authorization: Bearer " + key.encode() + b"\r\n\r\n"
    answer = await spoken(running.port, whole + b"nonsense\r\n\r\n")
    assert status_of(answer) == 200
    assert b"connection: close" in answer


async def test_a_body_whose_chunks_are_nonsense_is_told_so(running: Running) -> None:
    head = b"POST /v1/auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await spoken(running.port, head + b"5\r\nhello\r\n", b"zz\r\n", pause=0.05)
    assert_refused(answer, 400, "invalid_request")


async def test_requests_in_one_piece_are_answered_in_their_order(
    running: Running, key: str
) -> None:
    first = GET + b"Authorization: Bearer " + key.encode() + b"\r\n\r\n"
    second = b"GET /v1/nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(first + second)
    answer = await reader.read()
    writer.close()
    assert [int(code) for code in re.findall(rb"HTTP/1.1 (\d+)", answer)] == [200, 404]


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


class TestLeaving:
    """What a hot route learns of a client that leaves."""

    @pytest.fixture
    def told(self, running: Running) -> asyncio.Event:
        """Has a hot route stream until the client leaves; set when it learns that it has."""
        told = asyncio.Event()

        async def stream(exchange: Exchange) -> None:
            await exchange.body()
            gone = asyncio.Event()
            exchange.when_gone(gone.set)
            await exchange.begin(200, EVENTS)
            while not gone.is_set():
                await exchange.write(b"data: {}\n\n")
                await asyncio.sleep(0.01)
            assert exchange.left
            told.set()

        chat = named("CreateChatCompletion")
        running.edge.serve_hot(CANONICAL, chat, chat.place, stream)
        return told

    @pytest.mark.parametrize("way", ["close", "abort"])
    async def test_it_learns_at_once(self, running: Running, told: asyncio.Event, way: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
        )
        await reader.readuntil(b"data: {}")
        getattr(writer.transport, way)()
        async with asyncio.timeout(5):
            await told.wait()

    async def test_one_that_stopped_reading_has_left(
        self, running: Running, told: asyncio.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "STALL_SECONDS", 0.2)

        async def flood(exchange: Exchange) -> None:
            await exchange.body()
            exchange.when_gone(told.set)
            await exchange.begin(200, EVENTS)
            while not told.is_set():
                await exchange.write(b"x" * 65536)
                await asyncio.sleep(0)

        chat = named("CreateChatCompletion")
        running.edge.serve_hot(CANONICAL, chat, chat.place, flood)
        _, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
        )
        async with asyncio.timeout(10):
            await told.wait()
        writer.transport.abort()
