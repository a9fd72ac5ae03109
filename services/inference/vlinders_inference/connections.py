"""Connections to engines: HTTP/1.1, a POST at a time, and nothing that an engine does not need.

No redirects, cookies, proxies, or compression: what is not here cannot lead a key astray. aiohttp's
client costs some 75 µs a request and 15 µs a chunk; around the same parser that uvicorn uses
(httptools, llhttp) this costs a fifth of it.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httptools

from vlinders_inference.responses import Disconnected, Response
from vlinders_inference.tls import client_context, connect

KEEPALIVE_SECONDS = 30.0
"""How long a connection that is not used is kept."""

CLOSING_SECONDS = 1.0
"""A kept connection that breaks sooner than this after its use was being closed already."""

MOST_IDLE = 1024
"""Connections to one target that are kept."""

READ_BYTES = 16 * 1024
"""Most that is read of a connection at once. It is also what a reader that stalls can be left with
here, since nothing can be held up but what was not read yet; the event loop's own reads are sixteen
times as large."""

LARGEST_HEAD = 64 * 1024
"""Bytes of the status line and the headers."""


class Target:
    """One host and port, with the connections to it that are kept.

    `receive_bytes` of an answer are kept by the kernel at the most, which otherwise may come to
    keep megabytes: for one that is near, since from afar it is also a bound of the speed.
    """

    def __init__(
        self, origin: str, *, connect_seconds: float, receive_bytes: int | None = None
    ) -> None:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError("a target is an http:// or https:// origin")
        secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if secure else 80)
        self._tls = client_context() if secure else None
        self._connect_seconds = connect_seconds
        self._receive_bytes = receive_bytes
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._connecting = 0
        self._reaper: asyncio.TimerHandle | None = None
        self.host_header = parts.netloc.rpartition("@")[2]
        self.landing = memoryview(bytearray(READ_BYTES))
        """Where reads put what has come. One for all connections: each takes what there is before
        another reads."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection, or one is being made."""
        return bool(self._open or self._connecting)

    async def post(
        self, head: bytes, body: bytes, asked: Callable[[Response], None] | None = None
    ) -> Response:
        """The answer that has begun to a request whose `head` is as `head_of` makes it.

        `asked` gets it before it has begun, when it can be stopped already. Raises Disconnected. A
        connection that was kept, and that the engine closed just as it was used, is replaced by
        another: nothing was done with the request.
        """
        while True:
            kept, sent_at = bool(self._idle), time.monotonic()
            connection = self._idle.pop() if kept else await self._connect()
            response = connection.send(b"%s%d\r\n\r\n" % (head, len(body)), body)
            if asked is not None:
                asked(response)
            try:
                await response.begun()
            except Disconnected:
                late = time.monotonic() - sent_at > CLOSING_SECONDS
                if not kept or connection.heard or late:
                    raise
            except BaseException:
                connection.abort()
                raise
            else:
                return response

    @property
    def silent(self) -> bool:
        """Whether something is to come, and on no connection anything has come since `listen`."""
        waits = any(connection.waits for connection in self._open)
        return waits and not any(connection.silent is False for connection in self._open)

    def listen(self) -> None:
        """From now on it is known on which connections something comes."""
        for connection in self._open:
            connection.silent = True

    def break_silent(self) -> int:
        """Breaks the connections on which nothing has come since `listen`; how many they were."""
        silent = [connection for connection in self._open if connection.silent]
        for connection in silent:
            connection.abort()
        return len(silent)

    def close(self) -> None:
        """Closes every connection, idle or not."""
        if self._reaper is not None:
            self._reaper.cancel()
        for connection in list(self._open):
            connection.abort()

    def keep(self, connection: "_Connection") -> None:
        """Takes a connection back whose answer has ended."""
        if len(self._idle) >= MOST_IDLE:
            connection.abort()
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if self._reaper is None:
            self._reap_later()

    def forget(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def _connect(self) -> "_Connection":
        connection = _Connection(self, asyncio.get_running_loop())
        self._connecting += 1
        try:
            async with asyncio.timeout(self._connect_seconds):
                transport = await connect(connection, self._host, self._port, self._tls)
        except (OSError, TimeoutError) as error:
            raise Disconnected(type(error).__name__) from None
        finally:
            self._connecting -= 1
        if self._receive_bytes is not None:
            own: socket.socket = transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_bytes)
        self._open.add(connection)
        return connection

    def _reap_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._reaper = loop.call_later(KEEPALIVE_SECONDS, self._reap)

    def _reap(self) -> None:
        """Closes what has not been used for long; the oldest stand first."""
        self._reaper = None
        oldest = time.monotonic() - KEEPALIVE_SECONDS
        for connection in [each for each in self._idle if each.idle_since <= oldest]:
            connection.abort()
            self._idle.remove(connection)
        if self._idle:
            self._reap_later()


class _Connection(asyncio.BufferedProtocol):
    """One connection, with at most one request on it at a time."""

    def __init__(self, target: Target, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.heard = False
        """Something has come since the request was sent."""
        self.silent: bool | None = None
        """Nothing has come since its target began to listen; None: it did not, to this one."""
        self.idle_since = 0.0
        self._target = target
        self._transport: Any = None
        self._parser: Any = None
        self._response: Response | None = None
        self._head_bytes = 0
        self._until_close = True
        self._unasked = False
        self._halved = False

    @property
    def waits(self) -> bool:
        """Something is asked that is not answered to the end."""
        return self._response is not None

    def send(self, head: bytes, body: bytes) -> Response:
        self.heard = False
        self._response = response = Response(self)
        self._new_message()
        if self._transport.is_closing():
            self._lose(Disconnected("closed"))
        else:
            self._transport.write(head + body)  # one buffer: several take a dearer way
        return response

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

    def half_close(self) -> None:
        self._halved = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:  # TLS has no half-closed state
            self._transport.close()

    def abort(self) -> None:
        self._lose(Disconnected("aborted"))
        if self._transport is not None:
            self._transport.abort()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._target.landing

    def buffer_updated(self, nbytes: int) -> None:
        response = self._response
        if response is None:
            self.abort()  # nobody has asked
            return
        self.heard = True
        self.silent = False
        if response.status == 0:
            self._head_bytes += nbytes
        try:
            self._parser.feed_data(self._target.landing[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()
            return
        if self._unasked or (response.status == 0 and self._head_bytes > LARGEST_HEAD):
            self.abort()
        response.came()

    def connection_lost(self, error: Exception | None) -> None:
        response = self._response
        whole = response is not None and response.status != 0 and self._until_close
        self._lose(None if whole and error is None else Disconnected("lost"))
        self._target.forget(self)

    # httptools: the parser calls these out of feed_data.

    def on_message_begin(self) -> None:
        self._unasked = self._response is None

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response is not None:
            self._response.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        response, status = self._response, self._parser.get_status_code()
        if response is None or status < 200:
            return
        headers = response.headers
        self._until_close = not (b"content-length" in headers or b"transfer-encoding" in headers)
        response.begin(status)

    def on_body(self, piece: bytes) -> None:
        if self._response is not None:
            self._response.take(piece)

    def on_message_complete(self) -> None:
        response = self._response
        if response is None:
            return
        if response.status == 0:  # 100 Continue and the like: the answer is still to come
            response.headers.clear()
            return
        self._response = None
        response.end()
        reusable = self._parser.should_keep_alive() and not self._halved
        if reusable and not self._transport.is_closing():
            self._transport.resume_reading()
            self._target.keep(self)
        else:
            self._transport.close()

    def _new_message(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._head_bytes = 0
        self._until_close = True

    def _lose(self, error: Disconnected | None) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.end(error)
            response.came()


def head_of(path: str, host: str, headers: Mapping[str, str], *, method: str = "POST") -> bytes:
    """The beginning of a request with JSON, up to the number of its Content-Length.

    Raises ValueError for what could be read as another header or request.
    """
    fields = {"Host": host, "Content-Type": "application/json", **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    if not all(line.isascii() and line.isprintable() for line in lines) or " " in path:
        raise ValueError("a header has signs that no header may have")
    return ("\r\n".join(lines) + "\r\nContent-Length: ").encode()


def with_header(head: bytes, name: str, value: str) -> bytes:
    """What `head_of` has made, with one more header, of our own."""
    line, _, rest = head.partition(b"\r\n")
    return b"%s\r\n%s: %s\r\n%s" % (line, name.encode(), value.encode(), rest)
