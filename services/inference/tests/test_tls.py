"""TLS to engines: who is believed, what breaks off, and how little is kept that nobody takes."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from vlinders_inference.connections import READ_BYTES, Target, head_of
from vlinders_inference.responses import BUFFERED, Disconnected, Response
from vlinders_kit.testing.certificates import Authority

pytestmark = pytest.mark.anyio

HEAD = head_of("/v1/x", "engine", {"Authorization": "Bearer k"})
UNTIL_THE_END = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it"
LENGTH = 64 * BUFFERED

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The authority that this system believes."""
    authority = Authority()
    (tmp_path / "authority.pem").write_bytes(authority.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return authority


@asynccontextmanager
async def listening(
    serve: Serve, authority: Authority, name: str = "localhost"
) -> AsyncIterator[Target]:
    """The target of a server that shows a certificate for `name`."""
    shown = authority.part(name).for_listener()
    shown.verify_mode = ssl.CERT_NONE
    shown.set_alpn_protocols(["http/1.1"])
    async with answering(serve, shown) as port:
        target = Target(f"https://localhost:{port}", connect_seconds=1)
        yield target
        target.close()


@asynccontextmanager
async def answering(serve: Serve, shown: ssl.SSLContext | None) -> AsyncIterator[int]:
    """The port at which `serve` answers; over TLS, where it shows something."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=shown)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def asked(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2]))


async def whole(response: Response) -> bytes:
    body = b""
    while piece := await response.read():
        body += piece
    return body


async def long_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Each byte says where it is."""
    while True:
        await asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LENGTH)
        for start in range(0, LENGTH, 256):
            writer.write(bytes(range(256)))
            if not start % BUFFERED:
                await writer.drain()


async def test_long_bodies_go_and_come_whole_and_the_connection_is_used_again(
    believed: Authority,
) -> None:
    sent = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            sent.append((await asked(reader)).partition(b"\r\n\r\n")[2])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LENGTH)
            writer.write(bytes(range(256)) * (LENGTH // 256))

    async with listening(serve, believed) as target:
        for _ in range(2):
            response = await target.post(HEAD, b"x" * LENGTH)
            assert await whole(response) == bytes(range(256)) * (LENGTH // 256)
            assert len(target._open) == 1
    assert sent == [b"x" * LENGTH] * 2


async def test_what_is_not_taken_is_not_read(believed: Authority) -> None:
    async with listening(long_answer, believed) as target:
        response = await target.post(HEAD, b"")
        while response._waiting <= BUFFERED:
            await asyncio.sleep(0.01)
        for _ in range(5):
            await asyncio.sleep(0.01)
        (connection,) = target._open

        assert response._waiting <= BUFFERED + READ_BYTES
        assert connection._transport._incoming.pending <= READ_BYTES
        assert await whole(response) == bytes(range(256)) * (LENGTH // 256)


async def test_an_answer_may_end_with_its_connection(believed: Authority) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(UNTIL_THE_END)

    async with listening(serve, believed) as target:
        assert await whole(await target.post(HEAD, b"")) == b"all of it"


async def test_one_whose_connection_ends_without_a_word_may_not_be_whole(
    believed: Authority,
) -> None:
    """Anybody on the way can end a connection of TCP."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(UNTIL_THE_END)
        await asyncio.sleep(0.05)
        writer.transport.abort()

    async with listening(serve, believed) as target:
        response = await target.post(HEAD, b"")
        with pytest.raises(Disconnected):
            await whole(response)


@pytest.mark.parametrize("who", ["nobody known", "another"])
async def test_who_is_not_believed_is_not_told_the_key(believed: Authority, who: str) -> None:
    heard = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())

    shows = (Authority(), "localhost") if who == "nobody known" else (believed, "elsewhere")
    async with listening(serve, *shows) as target:
        with pytest.raises(Disconnected):
            await target.post(HEAD, b"")
        assert not target.connected
    assert b"".join(heard) == b""


@pytest.mark.parametrize("word", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_who_does_not_speak_tls_is_given_up(believed: Authority, word: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(word)
        await reader.read()
        await reader.read()

    async with answering(serve, None) as port:
        target = Target(f"https://localhost:{port}", connect_seconds=0.5)
        with pytest.raises(Disconnected):
            await target.post(HEAD, b"")
        assert not target.connected


async def test_one_that_is_stopped_is_closed(believed: Authority) -> None:
    """TLS has no half-closed state, so nothing more is heard of it."""
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        assert await reader.read() == b""
        left.set()

    async with listening(serve, believed) as target:
        response = await target.post(HEAD, b"")
        assert await response.read() == b"half"
        response.stop()
        async with asyncio.timeout(5):
            await left.wait()
            with pytest.raises(Disconnected):
                await response.read()
