"""Connections: what is no request, comes late, is too large, or leaves."""

import asyncio
import json
import re
import resource
from collections.abc import Iterable
from itertools import repeat
from typing import Any

import pytest

from vlinders.auth.v1.sessions_pb2 import SignIn
from vlinders_gateway import messages, protocol
from vlinders_gateway.dialects import CANONICAL
from vlinders_gateway.exchange import EVENTS
from vlinders_gateway.hot import HotExchange
from vlinders_gateway.open_connections import SPARE_FILES, OpenConnections, most_of
from vlinders_gateway.operations import named
from vlinders_gateway.testing import (
    Running,
    Script,
    answer_on,
    assert_refused,
    bearer,
    gateway,
    spoken,
    status_of,
)

pytestmark = pytest.mark.anyio


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


@pytest.mark.parametrize("length", [40_000, 70_000], ids=["40 KB", "more than a URL may have"])
async def test_a_long_address_is_refused(running: Running, length: int) -> None:
    """However it comes: the last piece of it is small."""
    sent = b"GET /" + b"a" * length
    end = b" HTTP/1.1\r\nHost: x\r\n\r\n"
    assert_refused(await spoken(running.port, sent, end), 431, "invalid_request")
    assert_refused(await spoken(running.port, sent + end), 431, "invalid_request")


async def test_a_head_that_drips_is_ended_by_its_deadline(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 1.2)  # more than a sweep looks ahead
    assert_refused(await spoken(running.port, GET, b"X: ", b"a"), 408, "invalid_request")


async def test_a_connection_that_says_nothing_is_closed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 1.2)  # more than a sweep looks ahead
    assert await spoken(running.port) == b""


async def test_a_kept_connection_has_a_new_deadline_for_each_head(
    running: Running, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 1.2)  # more than a sweep looks ahead
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    whole = GET + b"Authorization: Bearer " + key.encode() + b"\r\n\r\n"
    writer.write(whole)
    assert status_of(await answer_on(reader)) == 200
    await asyncio.sleep(2.0)  # idle is not late: longer than any sweep takes
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


class Streams:
    """Answers a hot route with `pieces`, in turns of the event loop, until the client leaves."""

    def __init__(self, pieces: Iterable[bytes], pause: float = 0.0) -> None:
        self.pieces = pieces
        self.pause = pause
        self.left = asyncio.Event()

    def admit(self, exchange: HotExchange) -> None:
        return None

    def serve(self, exchange: HotExchange, body: bytes) -> None:
        exchange.on_left = self.left.set
        exchange.begin(200, EVENTS)
        asyncio.get_running_loop().create_task(self._write(exchange))

    async def _write(self, exchange: HotExchange) -> None:
        for piece in self.pieces:
            if exchange.left:
                return
            exchange.write(piece)
            exchange.flush()
            await asyncio.sleep(self.pause)
        exchange.end()


END = b"\r\n0\r\n\r\n"
"""Of an answer in chunks: without the line before, the id of a request may end like it."""

CHAT = named("CreateChatCompletion")
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


class TestLeaving:
    """What a hot route learns of a client that leaves."""

    @pytest.mark.parametrize("way", ["close", "abort"])
    async def test_it_learns_at_once(self, running: Running, way: str) -> None:
        streams = Streams(repeat(b"data: {}\n\n"), pause=0.01)
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, streams)
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(POST)
        await reader.readuntil(b"data: {}")
        getattr(writer.transport, way)()
        async with asyncio.timeout(5):
            await streams.left.wait()
        assert running.edge.running == 0

    async def test_one_that_stopped_reading_has_left(
        self, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "STALL_SECONDS", 0.2)
        streams = Streams(repeat(b"x" * 65536))
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, streams)
        _, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
        writer.write(POST)
        async with asyncio.timeout(10):
            await streams.left.wait()
        writer.transport.abort()

    async def test_one_that_leaves_while_it_is_asked_who_it_is_ends_the_asking(
        self, running: Running
    ) -> None:
        asked, ended = asyncio.Event(), asyncio.Event()

        class Slow(Streams):
            def admit(self, exchange: HotExchange) -> Any:
                return self._ask

            async def _ask(self) -> None:
                asked.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.set()

        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, Slow([]))
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(POST)
        async with asyncio.timeout(5):
            await asked.wait()
            writer.transport.abort()
            await ended.wait()


class TestHotRoutes:
    async def test_what_is_written_in_one_turn_or_in_many_arrives_whole_and_in_order(
        self, running: Running
    ) -> None:
        pieces = [b"data: %d\n\n" % number for number in range(2_000)]
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, Streams(pieces))

        asked = (running.http.post("/v1/chat/completions", content=b"{}") for _ in range(20))
        answers = await asyncio.gather(*asked)

        assert all(answer.content == b"".join(pieces) for answer in answers)

    async def test_requests_in_one_piece_are_answered_in_their_order(
        self, running: Running
    ) -> None:
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, Streams([b"1", b"2"], pause=0.01))
        other = b"GET /v1/nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
        last = POST.replace(b"Host: x", b"Host: x\r\nConnection: close")

        answer = await told(running.port, POST + other + POST + last)

        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"404", b"200", b"200"]
        assert answer.count(b"1\r\n1\r\n1\r\n2\r\n0\r\n\r\n") == 3

    async def test_a_client_of_http_1_0_is_told_the_end_by_the_connections(
        self, running: Running
    ) -> None:
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, Streams([b"one ", b"two"]))
        head, _, body = (
            await told(running.port, POST.replace(b"HTTP/1.1", b"HTTP/1.0"))
        ).partition(b"\r\n\r\n")
        assert body == b"one two"
        assert b"transfer-encoding" not in head

    async def test_a_body_may_be_asked_for_first(self, running: Running) -> None:
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, Streams([b"yes"]))
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        head, body = POST[:-2].replace(b"Host", b"Expect: 100-continue\r\nHost"), POST[-2:]
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert b"yes" in await reader.readuntil(END)
        writer.close()

    @pytest.mark.parametrize(
        "path",
        ["/v1/chat/%63ompletions", "/v1/chat/completions?x=1", "http://x/v1/chat/completions"],
    )
    async def test_another_spelling_of_its_address_is_the_same(
        self, running: Running, path: str
    ) -> None:
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, Streams([b"same"]))
        asked = POST.replace(b"/v1/chat/completions", path.encode())
        assert b"same" in await told(
            running.port, asked.replace(b"Host", b"Connection: close\r\nHost")
        )

    async def test_an_encoded_slash_is_no_slash(self, running: Running) -> None:
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, Streams([b"same"]))
        asked = POST.replace(b"/v1/chat/completions", b"/v1/chat%2Fcompletions")
        assert_refused(await spoken(running.port, asked), 404, "not_found")

    async def test_a_body_that_drips_is_ended_by_its_deadline(
        self, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, Streams([b"never"]))
        monkeypatch.setattr(running.edge.limits, "seconds", 0.2)
        assert_refused(await spoken(running.port, POST[:-1]), 408, "invalid_request")
        assert running.edge.limits.room == running.edge.limits.__class__.room

    async def test_a_body_that_is_too_large_is_refused_and_its_room_given_back(
        self, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, Streams([b"never"]))
        monkeypatch.setattr(running.edge.limits, "most_bytes", 1000)
        chunked = POST.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked")[:-2]
        large = chunked + b"5dc\r\n" + b" " * 1500 + b"\r\n"
        assert_refused(await spoken(running.port, large), 413, "invalid_request")
        assert running.edge.limits.room == running.edge.limits.__class__.room

    async def test_what_is_asked_too_early_and_too_large_waits_for_its_refusal(
        self, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, Streams([b"1", b"2"], pause=0.01))
        monkeypatch.setattr(running.edge.limits, "most_bytes", 1000)
        chunked = POST.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked")[:-2]
        large = chunked + b"5dc\r\n" + b" " * 1500 + b"\r\n0\r\n\r\n"
        last = POST.replace(b"Host: x", b"Host: x\r\nConnection: close")

        answer = await told(running.port, POST + large + last)

        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"413", b"200"]
        assert running.edge.running == 0


async def told(port: int, sent: bytes) -> bytes:
    """All that comes back until the gateway closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


LOGIN = b"POST /v1/auth/login HTTP/1.1\r\nHost: x\r\n"


class TestBodiesThatAreMoreThanABody:
    async def test_a_trailer_is_no_header(self, running: Running, key: str) -> None:
        trailer = b"Authorization: Bearer %s\r\n" % key.encode()
        sent = (
            b"GET /v1/users/me HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\n{}\r\n0\r\n" + trailer + b"\r\n"
        )
        assert_refused(await spoken(running.port, sent), 401, "unauthorized")

    @pytest.mark.parametrize("chunked", [False, True])
    async def test_the_body_of_an_offer_to_upgrade_is_a_body(
        self, running: Running, *, chunked: bool
    ) -> None:
        """Not the next request, which would be one that nobody in front of us has seen."""
        running.script.answers["Login"] = SignIn()
        body = json.dumps({"email": "a@example.com", "password": "GET /v1/users/me"}).encode()
        length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
        framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
        head = LOGIN + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + length + b"\r\n\r\n"

        for pieces in ((head, framed), (head + framed,), (head + framed[:9], framed[9:])):
            assert status_of(await spoken(running.port, *pieces, pause=0.05)) == 200

        emails = [request.email for request in running.script.requests("Login")]
        assert emails == ["a@example.com"] * 3

    async def test_after_an_offer_to_upgrade_the_connection_goes_on(
        self, running: Running, key: str
    ) -> None:
        offer = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        last = GET + b"Connection: close\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(GET + offer + GET + offer + last)
        assert (await reader.read()).count(b"HTTP/1.1 401") == 3
        writer.close()

    async def test_it_may_not_come_in_crumbs(self, running: Running) -> None:
        chunked = LOGIN + b"Transfer-Encoding: chunked\r\n\r\n"
        answer = await spoken(running.port, chunked + b"1\r\n{\r\n" * 17_000)
        assert_refused(answer, 400, "invalid_request")
        assert b"pieces" in answer

    @pytest.mark.parametrize("around", [b"1;" + b"x" * 65_536, b"0\r\nX: " + b"x" * 65_536])
    async def test_what_is_around_it_has_a_size(self, running: Running, around: bytes) -> None:
        chunked = LOGIN + b"Transfer-Encoding: chunked\r\n\r\n"
        answer = await spoken(running.port, chunked, around, *[b"x" * 65_536] * 32)
        assert_refused(answer, 400, "invalid_request")

    async def test_one_that_breaks_after_its_refusal_gets_no_second_answer(
        self, running: Running
    ) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(
            b"POST /v1/api-keys HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n"
        )
        refusal = await answer_on(reader)
        writer.write(b"{}nonsense")
        assert status_of(refusal) == 401
        assert await reader.read() == b""
        writer.close()

    async def test_one_that_breaks_waits_for_the_answers_before_it(
        self, running: Running, key: str
    ) -> None:
        first = GET + b"Authorization: Bearer " + key.encode() + b"\r\n\r\n"
        broken = LOGIN + b"Transfer-Encoding: chunked\r\n\r\nnonsense"
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(first + broken)
        answer = await reader.read()
        writer.close()
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200"]

    async def test_a_refused_one_leaves_the_connection_for_another_request(
        self, running: Running, key: str
    ) -> None:
        size = 5_000_000
        whole = GET + b"Authorization: Bearer " + key.encode() + b"\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"POST /v1/api-keys HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        assert status_of(await answer_on(reader)) == 401
        writer.write(b" " * size + whole)
        assert status_of(await answer_on(reader)) == 200
        writer.close()


async def test_an_address_has_no_fragment(running: Running, key: str) -> None:
    for address in (b"/v1/users/me#", b"/docs#/../v1/users/me"):
        sent = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % address
        assert_refused(await spoken(running.port, sent), 400, "invalid_request")


async def test_only_so_many_requests_wait_on_a_connection(running: Running, key: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write((GET + b"\r\n") * 1_000)
    answers = (await reader.read()).count(b"HTTP/1.1 401")
    writer.close()
    assert answers == messages.MOST_PIPELINED + 1


class TestReadersThatDoNotRead:
    async def test_one_is_not_waited_for_when_the_connection_closes(
        self, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "STALL_SECONDS", 0.2)
        large = Streams([b"x" * 32 * 1024 * 1024])
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, large)
        _, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
        writer.write(POST.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        async with asyncio.timeout(10):
            while not running.connections.count:
                await asyncio.sleep(0.01)
            while running.connections.count:
                await asyncio.sleep(0.01)
        writer.transport.abort()

    async def test_one_that_reads_slowly_but_steadily_is_served(
        self, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "STALL_SECONDS", 1.0)
        size = 24 * 512 * 1024
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, Streams([b"x" * size]))
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(POST)
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(24):
            await reader.readexactly(size // 24)
            await asyncio.sleep(0.15)
        await reader.readuntil(END)
        writer.close()

    async def test_bodies_that_waited_for_their_turn_give_their_room_back(
        self, running: Running
    ) -> None:
        room = running.edge.limits.room
        running.edge.serve_hot(CANONICAL, CHAT, CHAT.place, Streams(repeat(b"x"), pause=0.01))
        for last in (b"10\r\n" + b" " * 10, b"nonsense"):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            chunked = POST.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked")[:-2]
            writer.write(POST + chunked + b"2\r\n{ \r\n" + last)
            await reader.readuntil(b"x")
            writer.transport.abort()
            async with asyncio.timeout(5):
                while running.connections.count:
                    await asyncio.sleep(0.01)
            assert running.edge.limits.room == room


class TestOpenConnections:
    async def test_one_too_many_is_told_so_and_when_to_come_back(
        self, script: Script, valkey: str
    ) -> None:
        async with gateway(script, valkey, connections=OpenConnections(2, 0)) as running:
            _, first = await asyncio.open_connection("127.0.0.1", running.port)
            _, second = await asyncio.open_connection("127.0.0.1", running.port)
            refusal = await spoken(running.port)
            assert_refused(refusal, 503, "internal_error")
            assert b"retry-after: 1" in refusal
            for writer in (first, second):
                writer.close()
            while running.connections.count:
                await asyncio.sleep(0.01)
            assert status_of(await spoken(running.port, GET + b"\r\n")) == 401

    def test_an_address_has_its_own_bound_and_a_proxy_has_none(self) -> None:
        open_connections = OpenConnections(5, 1, exempt=("10.0.0.0/8",))
        assert open_connections.enter("203.0.113.1")
        assert not open_connections.enter("203.0.113.1")
        assert open_connections.enter("2001:db8::1")
        assert not open_connections.enter("2001:db8::2")  # of the same /64
        assert open_connections.enter("10.0.0.1")
        assert not open_connections.enter("10.0.0.1")  # the sixth of all
        for address in ("203.0.113.1", "203.0.113.1", "10.0.0.1", "10.0.0.1"):
            open_connections.leave(address)
        assert open_connections.enter("203.0.113.1")
        assert open_connections.count == 3

    def test_there_are_never_more_than_descriptors(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
        try:
            assert most_of(100) == 100
            assert most_of(2 * hard) == hard - SPARE_FILES
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
