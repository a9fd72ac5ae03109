"""The port that clients never see: is the process alive, does it serve, and its figures.

It speaks plain HTTP even where parts show each other certificates: a probe of Kubernetes has none
to show, and what it is told here is no secret.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from prometheus_client import generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_SECONDS = 5.0
_HEAD = b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"


@contextlib.asynccontextmanager
async def serving(host: str, port: int, ready: Callable[[], bool]) -> AsyncIterator[None]:
    """Serves `/healthz`, `/readyz` (200 while `ready`, else 503) and `/metrics`.

    From this event loop: that it answers shows that the loop runs, and gauges may look at what
    belongs to it.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.partition(b" ")[2].partition(b" ")[0]
                status, body = _told(path, ready)
                writer.write(_HEAD % (status, CONTENT_TYPE.encode(), len(body)) + body)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, host, port, limit=16 * 1024)
    try:
        yield
    finally:
        server.close()


def _told(path: bytes, ready: Callable[[], bool]) -> tuple[bytes, bytes]:
    if path == b"/healthz":
        return b"200 OK", b"alive\n"
    if path == b"/readyz":
        return (b"200 OK", b"ready\n") if ready() else (b"503 Service Unavailable", b"not ready\n")
    if path == b"/metrics":
        return b"200 OK", generate_latest()
    return b"404 Not Found", b"nothing here\n"
