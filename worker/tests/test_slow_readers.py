"""Readers that do not read: what an agent has of an answer in hand for one of them."""

import asyncio
import json
import socket
import tracemalloc
from contextlib import ExitStack
from typing import Any

READERS = 8
MOST_BYTES = 160 * 1024
"""For each; the event loop's own reads alone are larger."""


async def test_one_that_does_not_read_leaves_little_in_the_agent(host: Any, numbered: Any) -> None:
    names = [f"r{number}" for number in range(READERS)]
    async with host({**numbered, "counts": "continuous_usage"}) as here:
        async with here.ask("before", stream=True, max_tokens=5) as answer:
            await answer.read()  # what is made once is made
        with ExitStack() as stack:
            tracemalloc.start()
            stack.callback(tracemalloc.stop)
            for name in names:
                await _ask(here, name, stack.enter_context(socket.socket()))
            async with asyncio.timeout(30):
                while (produced := [here.produced(name) for name in names]) != [
                    await _a_little_later(here, name) for name in names
                ]:
                    pass
            held, _ = tracemalloc.get_traced_memory()

        assert min(produced) > 0
        assert held / READERS <= MOST_BYTES


async def _ask(here: Any, name: str, peer: socket.socket) -> None:
    """Asks for 40 MB, by a client with next to no room of its own."""
    loop = asyncio.get_running_loop()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    peer.setblocking(False)
    asked = {"mark": "x" * 4_000, "rate": 1_000_000, "max_tokens": 10_000, "counts": "continuous"}
    body = json.dumps({"model": "numbered", "user": name, "stream": True, **asked}).encode()
    shown = {**here.headers(name, "numbered"), "host": "x", "content-length": str(len(body))}
    head = "".join(f"{header}: {value}\r\n" for header, value in shown.items())
    address = here.url.removeprefix("http://").split(":")
    await loop.sock_connect(peer, (address[0], int(address[1])))
    request = f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + body
    await loop.sock_sendall(peer, request)


async def _a_little_later(here: Any, name: str) -> int:
    await asyncio.sleep(0.1)
    produced: int = here.produced(name)
    return produced
