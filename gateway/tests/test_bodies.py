"""Bodies: how large, deep, slow and malformed one may be."""

import asyncio
from typing import Any

import pytest

from vlinders_gateway import protocol
from vlinders_gateway.bodies import Limits as BodyLimits
from vlinders_gateway.bodies import deeper_than
from vlinders_gateway.dialects import CANONICAL
from vlinders_gateway.hot import HotExchange
from vlinders_gateway.operations import named
from vlinders_gateway.testing import (
    Running,
    Script,
    assert_refused,
    bearer,
    gateway,
    spoken,
)

pytestmark = pytest.mark.anyio


class Unheard:
    """Lets everybody in, and is never asked: no body comes."""

    def admit(self, exchange: HotExchange) -> None:
        return None

    def serve(self, exchange: HotExchange, body: bytes) -> None:
        raise AssertionError("there is no body")


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

    @pytest.mark.parametrize("part", [b"{},", b"[],", b"1,", b'"k":1,', b'"",'])
    async def test_one_of_very_many_parts_is_not_read(
        self, running: Running, user: dict[str, str], part: bytes
    ) -> None:
        many, few = part * 400_001, part * 100_000
        for parts, words in ((many, "400000 values"), (few, "not valid JSON")):
            answer = await running.http.post("/v1/api-keys", content=parts, headers=user)
            assert_refused(answer, 400, "invalid_request")
            assert words in answer.json()["error"]["message"]

    async def test_what_is_in_a_text_is_no_part(
        self, running: Running, user: dict[str, str]
    ) -> None:
        text = {"name": '[{\\",:"' * 500_000}
        answer = await running.http.post("/v1/api-keys", json=text, headers=user)
        assert "values" not in answer.json()["error"]["message"]

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

    @pytest.mark.parametrize("hot", [True, False])
    async def test_one_that_was_late_is_not_waited_for_any_more(
        self, script: Script, valkey: str, monkeypatch: pytest.MonkeyPatch, *, hot: bool
    ) -> None:
        """The time in which a refused body may still come is none where its own is over."""
        monkeypatch.setattr(protocol, "LINGER_SECONDS", 30.0)
        operation = named("CreateChatCompletion" if hot else "Login")
        async with gateway(script, valkey, bodies=BodyLimits(seconds=0.2)) as running:
            if hot:
                running.edge.serve_hot(CANONICAL, operation, operation.place, Unheard())
            path = operation.place.partition(" ")[2]
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n".encode())
            try:
                async with asyncio.timeout(10):
                    assert_refused(await reader.read(), 408, "invalid_request")
            finally:
                writer.close()

    @pytest.mark.parametrize("hot", [True, False])
    async def test_one_that_is_late_has_heard_of_it_by_its_deadline(
        self, script: Script, valkey: str, *, hot: bool
    ) -> None:
        """And not by the first look at the connection after it."""
        operation, seconds = named("CreateChatCompletion" if hot else "Login"), 2.0
        async with gateway(script, valkey, bodies=BodyLimits(seconds=seconds)) as running:
            if hot:
                running.edge.serve_hot(CANONICAL, operation, operation.place, Unheard())
            path = operation.place.partition(" ")[2]
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            async with asyncio.timeout(seconds + 0.7):  # for a loaded machine
                head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
                writer.write(head.encode())
                assert_refused(await reader.read(), 408, "invalid_request")
            writer.close()

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
