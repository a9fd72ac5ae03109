"""HTTP/1.1 messages: what the parser under uvicorn lets pass that would be dear, or dangerous."""

import asyncio
from typing import NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vlinders_gateway.refusals import HeadersTooLarge, MalformedRequest, Overloaded
from vlinders_kit.errors import AppError

MOST_HEAD_BYTES = 32 * 1024
MOST_HEADERS = 100

MOST_PIPELINED = 32
"""Requests that may wait on a connection for the answer to the one before them."""

FREE_PIECES = 16 * 1024
LEAST_PIECE_BYTES = 64
"""A body may come in so many pieces; in more, if they have so many bytes on the average."""

SPARE_BYTES = 1024 * 1024
"""What may stand around the pieces of a body: their sizes, extensions, and trailers."""


class Messages(HttpToolsProtocol):
    """What comes on a connection, message by message."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._in_head = False
        self._bytes = 0
        """Of the head or the body that is coming, with all that is around it."""
        self._read_bytes = 0
        """Of what is being read just now."""
        self._head_bytes = 0
        """Of all that was read while the head was coming: it has no more."""
        self._body_bytes = self._pieces = 0
        self._upgrading = False
        """The parser takes the body that begins for another protocol."""

    def refused(self, error: AppError) -> None:
        """Gives the connection its last answer."""
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Has the parser read on. No offer to upgrade is taken: it is a request like any other."""
        self._read_bytes = len(data)
        self._bytes += self._read_bytes
        self._head_bytes += self._read_bytes
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                except httptools.HttpParserUpgrade as offer:
                    data = data[offer.args[0] :]
                    if self._upgrading:
                        self._read_body()
                else:
                    break
        except httptools.HttpParserError:
            self.refused(MalformedRequest(what="it is no HTTP/1.1"))
            return
        if self._in_head:
            if self._bytes > MOST_HEAD_BYTES:
                self.refused(HeadersTooLarge())
        elif self._bytes > 2 * self._body_bytes + SPARE_BYTES:
            self.refused(MalformedRequest(what="more is around its body than in it"))

    # The parser calls what follows; `_stop` ends it as well.

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer, which nobody in front of us has looked at
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def _begin_head(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._bytes = 0
        self._head_bytes = self._read_bytes

    def _end_head(self) -> None:
        """Checks the head, now that it is whole."""
        if len(self.headers) > MOST_HEADERS or self._is_large():
            self._stop(HeadersTooLarge())
        if b"#" in self.url:
            self._stop(MalformedRequest(what="its address has a fragment"))
        if len(self.pipeline) >= MOST_PIPELINED:
            self._stop(Overloaded())
        self._in_head = False
        self._bytes = self._body_bytes = self._pieces = 0
        self._upgrading = bool(self.parser.should_upgrade() and self._framing())

    def _is_large(self) -> bool:
        if self._head_bytes <= MOST_HEAD_BYTES:
            return False  # as nearly always: nothing has to be added up
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        return size > MOST_HEAD_BYTES

    def _count(self, piece: bytes) -> None:
        """Checks the body by its pieces: each costs as much as a large one."""
        self._body_bytes += len(piece)
        self._pieces += 1
        if self._pieces > FREE_PIECES + self._body_bytes // LEAST_PIECE_BYTES:
            self._stop(MalformedRequest(what="its body is in too many pieces"))

    def _stop(self, error: AppError) -> NoReturn:
        self.refused(error)
        raise ValueError(error.reason)

    def _read_body(self) -> None:
        """A new parser that stands where the body begins.

        Left at what the old one thinks, the body would be read as the next request, and whoever
        can send a body through a proxy could send requests past it.
        """
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % self._framing())
        self._upgrading = False

    def _framing(self) -> bytes:
        """The headers that say how long the body is; empty without a body."""
        return b"".join(
            b"%s: %s\r\n" % (name, value)
            for name, value in self.headers
            if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 "))
        )
