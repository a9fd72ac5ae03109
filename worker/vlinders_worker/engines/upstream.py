"""One request to an engine: ask, read, stop."""

from collections.abc import AsyncIterator, Mapping

import aiohttp
import msgspec

from vlinders_kit.tracing import outgoing
from vlinders_worker.engines.pulse import Pulse
from vlinders_worker.errors import EngineFailed, EngineRefused
from vlinders_worker.meters import Body

CLIENTS_FAULT = frozenset({400, 413, 422})
"""Statuses that say that the request is wrong. Any other is the engine's or its operator's."""

PIECE_BYTES = 8 * 1024
"""Of an answer that are in hand at once, in each shape that they take until they are passed on."""

LONGEST_REFUSAL = 64 * 1024
LONGEST_ANSWER = 256 * 1024 * 1024
"""Bytes; embeddings of a large batch are long."""


class Upstream:
    """Speaks OpenAI's shape over HTTP/1.1. What breaks is an EngineFailed."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        *,
        slot_id: str,
        url: str,
        model: str | None,
        headers: Mapping[str, str],
        silence_seconds: float,
        pulse: Pulse,
    ) -> None:
        self.begun = False
        """Whether the answer has begun, for the pulse: a server's first bytes may say nothing."""
        self._http = http
        self._slot_id = slot_id
        self._url = url
        self._model = model
        self._headers = headers
        self._pulse = pulse
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=silence_seconds)
        self._response: aiohttp.ClientResponse | None = None

    def rename(self, body: Body) -> None:
        """Calls the model what the engine calls it."""
        if self._model is not None:
            body["model"] = msgspec.Raw(msgspec.json.encode(self._model))

    async def ask(self, path: str, body: Body) -> None:
        """Sends the request and awaits the head of the answer.

        Raises EngineRefused for a request that is wrong, EngineFailed for anything else than 200.
        """
        try:
            self._response = await self._post(path, msgspec.json.encode(body))
            if self._response.status == 200:
                return
            told = await self.whole(LONGEST_REFUSAL)
        except (aiohttp.ClientError, OSError) as error:
            raise self._failed(error) from error
        if self._response.status in CLIENTS_FAULT:
            raise EngineRefused(self._response.status, told, self._response.content_type)
        status = self._response.status
        raise EngineFailed(slot_id=self._slot_id, why=f"it answered with status {status}")

    async def data(self) -> AsyncIterator[bytes]:
        """The body as it comes; goes on where an iterator before it was left."""
        if self._response is None:
            return
        try:
            while data := await self._read(self._response.content):
                yield data
        except (aiohttp.ClientError, OSError) as error:
            raise self._failed(error) from error

    async def whole(self, longest: int = LONGEST_ANSWER) -> bytes:
        """All of the body. What is longer than that many bytes has failed."""
        parts, left = [], longest
        async for data in self.data():
            parts.append(data)
            left -= len(data)
            if left < 0:
                raise EngineFailed(slot_id=self._slot_id, why="its answer has no end")
        return b"".join(parts)

    def stop(self) -> None:
        """Closes our half of the connection: the engine sees that nobody waits, and stops.

        What it had written before still arrives, so that it can be counted.
        """
        connection = self._response.connection if self._response is not None else None
        transport = connection.transport if connection is not None else None
        if transport is None:
            return
        if transport.can_write_eof():
            transport.write_eof()
        else:  # TLS has no half-closed state
            transport.close()

    def close(self) -> None:
        """Lets the connection go: back to the pool after a whole answer, else cut off."""
        if self._response is not None:
            self._response.close()

    async def _post(self, path: str, body: bytes) -> aiohttp.ClientResponse:
        heard = False
        self._pulse.wait(begun=False)
        try:
            response = await self._http.post(
                self._url + path,
                data=body,
                headers={"content-type": "application/json", **self._headers, **dict(outgoing())},
                timeout=self._timeout,
                allow_redirects=False,  # the key is for this host and no other
            )
            heard = True
            return response
        finally:
            self._pulse.end_wait(begun=False, heard=heard)

    async def _read(self, content: aiohttp.StreamReader) -> bytes:
        begun, heard = self.begun, False
        self._pulse.wait(begun=begun)
        try:
            data = await content.read(PIECE_BYTES)
            heard = True
            return data
        finally:
            self._pulse.end_wait(begun=begun, heard=heard)

    def _failed(self, error: Exception) -> EngineFailed:
        if isinstance(error, TimeoutError):
            return EngineFailed(slot_id=self._slot_id, why="it has fallen silent")
        return EngineFailed(slot_id=self._slot_id, why=f"connection lost ({type(error).__name__})")
