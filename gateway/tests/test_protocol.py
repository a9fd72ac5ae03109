"""Connections: what is no request, comes late, is too large, or leaves."""

import asyncio
import re

import pytest

from vlinders.auth.v1.accounts_pb2 import Account
from vlinders.inference.v1.models_pb2 import ListModelsResponse
from vlinders_gateway import protocol
from vlinders_gateway.dialects import CANONICAL
from vlinders_gateway.exchange import EVENTS, Exchange
from vlinders_gateway.operations import named
from vlinders_gateway.testing import (
    Running,
    answer_on,
    assert_refused,
    bearer,
    spoken,
    status_of,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def key(running: Running) -> str:
    running.script.answers["GetMyAccount"] = Account(id="user_1", email="a@example.com")
    running.script.answers["ListModels"] = ListModelsResponse(object="list")
    return running.script.user_key()


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
    assert status_of(await answer_on(reader)) == 200
    await asyncio.sleep(1.5)  # idle is not late: longer than any sweep takes
    writer.write(whole)
    assert status_of(await answer_on(reader)) == 200
    writer.write(GET)
    async with asyncio.timeout(10):
        assert_refused(await answer_on(reader), 408, "invalid_request")
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


async def test_what_is_written_in_one_turn_or_in_many_arrives_whole_and_in_order(
    running: Running,
) -> None:
    async def stream(exchange: Exchange) -> None:
        await exchange.begin(200, EVENTS)
        for number in range(2_000):
            await exchange.write(b"data: %d\n\n" % number)
            if number % 7 == 0:
                await asyncio.sleep(0)
            if number % 500 == 0:
                await asyncio.sleep(0.01)
        await exchange.end()

    chat = named("CreateChatCompletion")
    running.edge.serve_hot(CANONICAL, chat, chat.place, stream)

    streams = await asyncio.gather(*(running.http.post(chat.place[5:]) for _ in range(20)))

    whole = "".join(f"data: {number}\n\n" for number in range(2_000))
    assert all(answer.text == whole for answer in streams)
