"""Whether a process serves, or lives, asked over HTTP or by its program's own protocol.

What serves can be used now. What lives answers something: it may drain, stand by, or wait for
others, and is not helped by being started again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

Asks = Callable[[], Awaitable[bool]]
_SECONDS = 2.0


def http(address: str, path: str) -> Asks:
    """`GET path` is answered with 200."""

    async def serves() -> bool:
        host, _, port = address.rpartition(":")
        request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        try:
            async with asyncio.timeout(_SECONDS):
                reader, writer = await asyncio.open_connection(host, int(port))
                with contextlib.closing(writer):
                    writer.write(request.encode())
                    line = await reader.readline()
        except (OSError, TimeoutError):
            return False
        return line.split()[1:2] == [b"200"]

    return serves


def program(ask: Callable[[], bool]) -> Asks:
    """A program's own test, which may block."""

    async def asked() -> bool:
        return await asyncio.to_thread(ask)

    return asked
