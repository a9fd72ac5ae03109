"""HTTP to engines: what is hostile or broken is a failure of its own connection and of no other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from vlinders_inference import connections
from vlinders_inference.connections import Target, head_of
from vlinders_inference.responses import BUFFERED, Disconnected, Response

pytestmark = pytest.mark.anyio

HEAD = head_of("/v1/x", "engine", {"Authorization": "Bearer k"})
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Last(bytes):
    """An answer after which the server hangs up."""


class Server:
    """Answers requests with `answers`, in order."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers and (head := await reader.readuntil(b"\r\n\r\n")):
                size = int(head.rpartition(b"Content-Length: ")[2])
                self.requests.append(head + await reader.readexactly(size))
                answer = self.answers.pop(0)
                writer.write(answer)
                await writer.drain()
                if isinstance(answer, Last):
                    return
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed.set()
            writer.close()


@asynccontextmanager
async def talking(server: Server) -> AsyncIterator[Target]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    target = Target(f"http://127.0.0.1:{port}", connect_seconds=1)
    try:
        yield target
    finally:
        target.close()
        listening.close()
        await server.closed.wait()


async def whole(response: Response) -> bytes:
    body = b""
    while piece := await response.read():
        body += piece
    return body


async def test_a_request_is_sent_and_its_answer_read() -> None:
    server = Server(OK)
    async with talking(server) as target:
        response = await target.post(HEAD, b"{}")
        assert (response.status, await whole(response)) == (200, b"ok")

    request = b"POST /v1/x HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
    assert server.requests == [request + b"Authorization: Bearer k\r\nContent-Length: 2\r\n\r\n{}"]


async def test_a_connection_is_used_again() -> None:
    server = Server(OK, OK, OK)
    async with talking(server) as target:
        for _ in range(3):
            assert await whole(await target.post(HEAD, b"")) == b"ok"

    assert server.connections == 1


async def test_a_target_that_is_being_connected_to_is_in_use() -> None:
    async with talking(Server(OK)) as target:
        assert not target.connected
        asking = asyncio.ensure_future(target.post(HEAD, b""))
        await asyncio.sleep(0)

        assert target.connected
        assert await whole(await asking) == b"ok"


async def test_a_target_is_silent_where_something_is_to_come_and_nothing_does() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok"
    async with talking(Server(OK, half, OK)) as target:
        await whole(await target.post(HEAD, b""))
        target.listen()
        assert not target.silent  # nothing is asked of it

        await target.post(HEAD, b"")
        assert not target.silent
        target.listen()
        assert target.silent

        await whole(await target.post(HEAD, b""))  # on a connection that is new
        assert not target.silent


async def test_a_kept_connection_that_is_closed_as_it_is_used_is_replaced() -> None:
    server = Server(OK, Last(b""), OK)
    async with talking(server) as target:
        for _ in range(2):
            assert await whole(await target.post(HEAD, b"")) == b"ok"

    assert server.connections == 2


async def test_a_new_connection_that_is_closed_is_a_failure() -> None:
    async with talking(Server(Last(b""))) as target:
        with pytest.raises(Disconnected):
            await target.post(HEAD, b"")


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (connections.LARGEST_HEAD + 1),
    ],
)
async def test_what_is_no_http_is_a_failure(answer: bytes) -> None:
    async with talking(Server(answer)) as target:
        with pytest.raises(Disconnected):
            await target.post(HEAD, b"")


async def test_an_answer_that_breaks_off_is_a_failure_after_what_came() -> None:
    server = Server(Last(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"))
    async with talking(server) as target:
        response = await target.post(HEAD, b"")
        assert await response.read() == b"half"
        with pytest.raises(Disconnected):
            await response.read()


async def test_an_answer_may_end_with_its_connection() -> None:
    server = Server(Last(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it"))
    async with talking(server) as target:
        assert await whole(await target.post(HEAD, b"")) == b"all of it"


async def test_a_word_in_between_is_not_the_answer() -> None:
    async with talking(Server(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)) as target:
        response = await target.post(HEAD, b"")

        assert (response.status, await whole(response)) == (200, b"ok")


async def test_what_nobody_asked_for_is_nobodys_answer() -> None:
    planted = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nplanted"
    server = Server(OK + planted, OK)
    async with talking(server) as target:
        assert await whole(await target.post(HEAD, b"")) == b"ok"
        assert await whole(await target.post(HEAD, b"")) == b"ok"

    assert server.connections == 2


async def test_an_answer_without_end_waits_for_its_reader() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"x" * (16 * BUFFERED))
    async with talking(server) as target:
        response = await target.post(HEAD, b"")
        while response._waiting <= BUFFERED:
            await asyncio.sleep(0.01)
        for _ in range(5):
            await asyncio.sleep(0.01)

        assert len(await response.read()) < 4 * BUFFERED
        response.close()


async def test_who_gives_up_waiting_closes_the_connection() -> None:
    server = Server(b"")
    async with talking(server) as target:
        asking = asyncio.ensure_future(target.post(HEAD, b""))
        while not server.requests:
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

        await asyncio.wait_for(server.closed.wait(), 1)


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "ticket\x00", "schlüssel"])
def test_a_header_cannot_smuggle_another(value: str) -> None:
    with pytest.raises(ValueError, match="signs"):
        head_of("/", "engine", {"X": value})


@pytest.mark.parametrize("origin", ["ftp://x", "//x", "http://", "x"])
def test_a_target_is_an_http_origin(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        Target(origin, connect_seconds=1)


async def test_what_an_engine_still_sends_after_it_was_stopped_comes() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2]))
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\none ")
        assert await reader.read() == b""  # its client waits no more
        writer.write(b"two")
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    target = Target(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", connect_seconds=1)
    asked: list[Response] = []
    response = await target.post(HEAD, b"", asked.append)
    assert await response.read() == b"one "

    asked[0].stop()

    assert await whole(response) == b"two"
    assert not target.connected
    listening.close()


async def test_a_connection_that_was_stopped_is_not_used_again() -> None:
    server = Server(OK, OK)
    async with talking(server) as target:
        stopped: list[Response] = []

        def stop(response: Response) -> None:
            response.stop()
            stopped.append(response)

        assert await whole(await target.post(HEAD, b"", stop)) == b"ok"
        assert await whole(await target.post(HEAD, b"")) == b"ok"
    assert server.connections == 2


async def test_what_comes_is_passed_on_until_enough_has_and_the_rest_can_still_be_read() -> None:
    server, rest = (
        Server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", OK),
        [],
    )
    loop = asyncio.get_running_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest.append(writer)
        await Server.serve(server, reader, writer)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    target = Target(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", connect_seconds=1)
    response, passed = await target.post(HEAD, b""), list[bytes]()

    def sink(piece: bytes) -> bool:
        passed.append(piece)
        if piece == b"one":
            loop.call_soon(rest[0].write, b"3\r\ntwo\r\n")
        return piece != b"two"

    async with asyncio.timeout(10):
        await response.pump(sink)
        loop.call_soon(rest[0].write, b"5\r\nthree\r\n0\r\n\r\n")
        assert (passed, await whole(response)) == ([b"one", b"two"], b"three")
        assert await whole(await target.post(HEAD, b"")) == b"ok"
    assert server.connections == 1
    target.close()
    listening.close()
    await server.closed.wait()


async def test_a_connection_lost_while_its_answer_is_passed_on_is_a_failure() -> None:
    broken = Last(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    passed: list[bytes] = []
    async with talking(Server(broken)) as target:
        response = await target.post(HEAD, b"")
        with pytest.raises(Disconnected):
            await response.pump(lambda piece: passed.append(piece) is None)

    assert passed == [b"half"]


async def test_a_fault_of_who_gets_what_comes_is_told_to_him() -> None:
    async with talking(Server(OK)) as target:
        response = await target.post(HEAD, b"")
        with pytest.raises(ZeroDivisionError):
            await response.pump(lambda piece: bool(1 // 0))


async def test_a_fault_is_told_even_if_the_answer_ends_before_anybody_has_heard_of_it() -> None:
    class Still:
        loop = asyncio.get_running_loop()

        def pause(self) -> None: ...
        def resume(self) -> None: ...
        def half_close(self) -> None: ...
        def abort(self) -> None: ...

    response = Response(Still())
    pumping = asyncio.create_task(response.pump(lambda piece: bool(1 // 0)))
    await asyncio.sleep(0)

    response.take(b"a piece")
    response.came()
    response.end()
    response.came()

    with pytest.raises(ZeroDivisionError):
        await pumping


async def test_an_engine_is_held_up_before_much_of_its_answer_is_here() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"x" * (64 * BUFFERED))
    passed: list[bytes] = []

    async with talking(server) as target:
        response = await target.post(HEAD, b"")
        async with asyncio.timeout(10):
            while not response._held:
                await asyncio.sleep(0.01)
            for _ in range(8):
                await response.pump(lambda piece: bool(passed.append(piece)))
        response.close()

    # What waited before, and then what one read brings: nobody could hold that up.
    assert len(passed[0]) <= 2 * BUFFERED
    assert max(map(len, passed[1:])) <= BUFFERED
