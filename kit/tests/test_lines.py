"""A line of the tests: holds what it is told to hold, and is cut when it is told to be."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from vlinders_kit.testing.lines import Line, line


@dataclass
class Peer:
    """Says each line of text again, in capitals."""

    heard: "asyncio.Queue[bytes]" = field(default_factory=asyncio.Queue)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionResetError):
            while said := await reader.readline():
                self.heard.put_nowait(said)
                writer.write(said.upper())
        writer.close()


@dataclass
class Call:
    line: Line
    peer: Peer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> bytes:
        return await asyncio.wait_for(self.reader.readline(), 10)


@pytest.fixture
async def call() -> AsyncIterator[Call]:
    """A connection to a peer over a line, of which something was heard."""
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    with line("127.0.0.1", server.sockets[0].getsockname()[1]) as laid:
        call = Call(laid, peer, *await asyncio.open_connection("127.0.0.1", laid.port))
        call.writer.write(b"zero\n")
        assert (await call.answer(), await peer.heard.get()) == (b"ZERO\n", b"zero\n")
        yield call
        call.writer.close()
    server.close()


async def test_what_is_held_on_its_way_arrives_when_the_line_is_whole_again(call: Call) -> None:
    with call.line.held("there"):
        call.writer.write(b"one\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call.peer.heard.get(), 0.2)

    assert await call.answer() == b"ONE\n"


async def test_a_request_is_heard_whose_answer_is_held(call: Call) -> None:
    with call.line.held("back"):
        call.writer.write(b"one\n")
        assert await call.peer.heard.get() == b"one\n"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call.reader.readline(), 0.2)

    assert await call.answer() == b"ONE\n"


async def test_a_line_that_is_cut_is_reset(call: Call) -> None:
    call.line.cut()

    with pytest.raises(ConnectionResetError):
        await call.answer()
