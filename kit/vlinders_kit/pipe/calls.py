"""The two ends of a pipe's call: who dials, and who answers."""

import asyncio
import base64
import struct
from collections.abc import Callable, Sequence

from vlinders_kit import logs
from vlinders_kit.errors import AppError
from vlinders_kit.pipe.wire import (
    END_STREAM,
    GOAWAY,
    NO_ERROR,
    NUMBER,
    REFUSED_STREAM,
    RST_STREAM,
    Talker,
    Wire,
    WireBroken,
)

log = logs.get(__name__)

FAREWELL_SECONDS = 2.0
"""How long whoever dialled has to close a connection whose call is over."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

Metadata = Sequence[tuple[str, str | bytes]]
"""Values of names that end in `-bin` are bytes."""


class Dialled(Wire):
    """The asking end. `accepted` is done when the other side has taken the call."""

    def __init__(self, path: str, authority: str, metadata: Metadata, talker: Talker) -> None:
        super().__init__()
        self.talker = talker
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._path = path
        self._authority = authority
        self._metadata = metadata

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        scheme = "https" if transport.get_extra_info("ssl_object") is not None else "http"
        self._stream = 1
        self._transport.write(_PREFACE)
        self._greet()
        self._write_headers(
            [
                (":method", "POST"),
                (":scheme", scheme),
                (":path", self._path),
                (":authority", self._authority),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", "vlinders-pipe"),
                *_spelt(self._metadata),
            ]
        )

    def _told(self, stream: int, fields: dict[str, str], *, ended: bool) -> None:
        status = fields.get("grpc-status", "0")
        if fields.get(":status", "200") != "200" or status != "0":
            self._ended(f"refused: status {fields.get(':status')}, code {status}")
        elif ended:
            self._ended("the other side has ended the call")
        elif not self.accepted.done():
            self.accepted.set_result(None)

    def _over(self, why: str) -> None:
        if not self.accepted.done():
            self.accepted.set_exception(WireBroken(why))
        self.talker.lost(why)


Answer = Callable[[str, Metadata, "Answered"], Talker]
"""Takes a call: its path, its metadata, the wire → who talks. Raises an AppError to refuse it."""


class Answered(Wire):
    """The serving end of one call."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer: Answer | None = answer
        self._preface = True

    def finish(self) -> None:
        """Ends the call in order, after all that has been sent."""
        if self._stream and not self._ending:
            self._ending = True
            self._write_headers([("grpc-status", "0")], END_STREAM)
        self._write(GOAWAY, 0, 0, struct.pack(">II", self._stream, NO_ERROR))
        # Closed with something unread, the connection would be reset, and what was sent last might
        # never be read: the other side closes, and only if it does not, we do.
        asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self._transport.close)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._greet()

    def _read(self, data: bytes) -> None:
        if self._preface:
            self._received += data
            if not (self._received.startswith(_PREFACE) or _PREFACE.startswith(self._received)):
                raise WireBroken("it is no HTTP/2")
            if len(self._received) < len(_PREFACE):
                return
            self._preface = False
            data = bytes(self._received[len(_PREFACE) :])
            self._received.clear()
        super()._read(data)

    def _told(self, stream: int, fields: dict[str, str], *, ended: bool) -> None:
        answer, self._answer = self._answer, None
        if stream == self._stream:
            self._ended("the other side has ended the call")
        elif answer is None:
            self._write(RST_STREAM, 0, stream, NUMBER.pack(REFUSED_STREAM))
        else:
            self._stream = stream
            self._stream_window = self._first_window
            path = fields.get(":path", "")
            try:
                self.talker = answer(path, _read_metadata(fields), self)
            except AppError as error:
                self._refuse(error)
            else:
                self._write_headers([(":status", "200"), ("content-type", "application/grpc")])
                if ended:
                    self._ended("the other side has ended the call")

    def _refuse(self, error: AppError) -> None:
        self._ending = True
        code = error.status.value[0]
        log.warning("pipe_refused", reason=error.reason)
        self._write_headers(
            [
                (":status", "200"),
                ("content-type", "application/grpc"),
                ("grpc-status", str(code)),
                ("grpc-message", error.reason),
            ],
            END_STREAM,
        )
        self._transport.close()

    def _look(self) -> None:
        if self._answer is not None:
            self._why = "no call has come"
            self._transport.abort()
        else:
            super()._look()

    def _over(self, why: str) -> None:
        if self._answer is None and hasattr(self, "talker"):
            self.talker.lost(why)


def _spelt(metadata: Metadata) -> list[tuple[str, str]]:
    return [
        (name, base64.b64encode(value).decode() if isinstance(value, bytes) else value)
        for name, value in metadata
    ]


def _read_metadata(fields: dict[str, str]) -> Metadata:
    read: list[tuple[str, str | bytes]] = []
    for name, value in fields.items():
        if name.endswith("-bin"):
            try:
                read.append((name, base64.b64decode(value + "=" * (-len(value) % 4))))
            except ValueError:
                raise WireBroken(f"{name} is not in base64") from None
        else:
            read.append((name, value))
    return read
