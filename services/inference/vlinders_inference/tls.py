"""TLS to engines, which holds no more of an answer than the connection below it reads at once.

The event loop's own reads ahead whatever its reader does: of one that stalls it keeps half a
megabyte. Here nothing is read of the connection while what came is not taken.
"""

import asyncio
import ssl
from contextlib import suppress
from typing import Any


def client_context() -> ssl.SSLContext:
    """Believes the authorities of the system, and speaks HTTP/1.1."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def connect(
    protocol: asyncio.BufferedProtocol, host: str, port: int, context: ssl.SSLContext | None
) -> asyncio.BaseTransport:
    """Connects `protocol` to the host, over TLS with a `context`; the transport on the socket.

    Raises OSError, also where the other side is not who it must be.
    """
    loop = asyncio.get_running_loop()
    if context is None:
        plain, _ = await loop.create_connection(lambda: protocol, host, port)
        return plain
    tls = TlsTransport(protocol, context, host)
    below, _ = await loop.create_connection(lambda: tls, host, port)
    try:
        await tls.ready
    except BaseException:
        below.abort()
        raise
    return below


class TlsTransport(asyncio.BufferedProtocol):
    """The protocol of a connection below, and the transport of `above`.

    `above` is told of the connection once hands are shaken, and `ready` is done then. What comes is
    put into the buffers of `above`, in which the connection's own reads land before: they must last
    for no longer than a call.
    """

    def __init__(
        self, above: asyncio.BufferedProtocol, context: ssl.SSLContext, server_hostname: str
    ) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._above = above
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: Any = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_hostname
        )
        self._below: Any = None
        self._shaken = False
        self._paused = False
        self._error: Exception | None = ssl.SSLEOFError("no end of TLS: what came may not be all")
        """What `above` is told when the connection is lost."""

    # As a transport

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._tls.write(left) :]
        self._flush()

    def pause_reading(self) -> None:
        self._paused = True
        self._below.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._below.resume_reading()
            # Not at once: whoever resumes may be in the middle of what was read before.
            asyncio.get_running_loop().call_soon(self._read)

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        closing: bool = self._below.is_closing()
        return closing

    def close(self) -> None:
        if not self.is_closing():
            self._say_goodbye()
            self._below.close()

    def abort(self) -> None:
        self._below.abort()

    # As a protocol

    def connection_made(self, transport: Any) -> None:
        self._below = transport
        self._shake_hands()

    def get_buffer(self, sizehint: int) -> Any:
        return self._above.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self._incoming.write(memoryview(self._above.get_buffer(-1))[:nbytes])
        if not self._shaken:
            self._shake_hands()
        if self._shaken:
            self._read()

    def connection_lost(self, error: Exception | None) -> None:
        error = error or self._error
        if self._shaken:
            self._above.connection_lost(error)
        elif not self.ready.done():
            assert error is not None
            self.ready.set_exception(error)
            self.ready.exception()  # whoever was to wait may have given up before

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # the alert, which says why
            self._fail(error)
        else:
            self._flush()
            self._shaken = True
            self._above.connection_made(self)  # type: ignore[arg-type]
            if not self.ready.done():
                self.ready.set_result(None)

    def _read(self) -> None:
        """Passes on what has come, until that is all or it is not taken any more."""
        try:
            while not (self._paused or self._below.is_closing()) and self._has_more():
                landing = memoryview(self._above.get_buffer(-1))
                size = self._tls.read(len(landing), landing)
                if not size:
                    self._error = None  # in order
                    self.close()
                    return
                self._above.buffer_updated(size)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._flush()  # an answer to what was no data

    def _has_more(self) -> bool:
        return self._incoming.pending > 0 or self._tls.pending() > 0

    def _say_goodbye(self) -> None:
        """Has the other side see that this is the end, and not a connection that broke."""
        with suppress(ssl.SSLError):  # the other side has said nothing of the kind, and need not
            self._tls.unwrap()
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read())

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._below.abort()
