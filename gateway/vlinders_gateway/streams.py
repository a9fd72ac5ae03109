"""The hot path: chat completions and embeddings as bytes, over the pipe to inference."""

from functools import partial

from vlinders.api.v1.pipe_pb2 import PipeOpen
from vlinders_gateway.admission import Admission
from vlinders_gateway.dialects import DIALECTS
from vlinders_gateway.edge import Edge
from vlinders_gateway.exchange import EVENTS, request_id
from vlinders_gateway.hot import HotExchange, Step
from vlinders_gateway.operations import Operation
from vlinders_kit import logs
from vlinders_kit.errors import Failure, failure_of
from vlinders_kit.pipe import NoReplica, PipeExchange, PipeLost, PipePool

log = logs.get(__name__)

_STREAM = EVENTS.decode()

_TRIES = 2
"""Replicas that a request may be given to, where the first is lost before it has answered."""


def serve_on(edge: Edge, admission: Admission, pool: PipePool, *, deadline: float) -> None:
    """Has `edge` serve every piped operation of every dialect over `pool`.

    `deadline` is in seconds, from the first byte of the request to the last of the answer.
    """
    for dialect in DIALECTS:
        for operation, verb, path in dialect.places():
            if operation.piped:
                piped = Piped(operation, admission, pool, int(deadline * 1000))
                edge.serve_hot(dialect, operation, f"{verb} {path}", piped)


class Piped:
    """What answers one piped operation."""

    def __init__(
        self, operation: Operation, admission: Admission, pool: PipePool, deadline_ms: int
    ) -> None:
        self._operation = operation
        self._admission = admission
        self._pool = pool
        self._deadline_ms = deadline_ms

    def admit(self, exchange: HotExchange) -> Step | None:
        exchange.principal = self._admission.at_once(exchange, self._operation)
        return None if exchange.principal is not None else partial(self._admit, exchange)

    async def _admit(self, exchange: HotExchange) -> None:
        exchange.principal = await self._admission.admit(exchange, self._operation)

    def serve(self, exchange: HotExchange, body: bytes) -> None:
        assert exchange.principal is not None
        request = PipeOpen(
            request_id=exchange.id,
            operation=self._operation.name,
            caller=exchange.principal.wire,
            body=body,
            deadline_ms=self._deadline_ms,
            traceparent=exchange.traceparent,
        )
        Relay(exchange, self._pool, request)


class Relay:
    """Passes an answer from the pipe to the client; the receiver of its exchange.

    A client that leaves cancels it; one that does not read gets no more room in the window.
    """

    __slots__ = (
        "_ended",
        "_exchange",
        "_failure",
        "_pieces",
        "_pool",
        "_request",
        "_running",
        "_streams",
        "_tries",
        "_untaken",
    )

    def __init__(self, exchange: HotExchange, pool: PipePool, request: PipeOpen) -> None:
        self._exchange = exchange
        self._pool = pool
        self._request = request
        self._pieces: list[bytes] = []
        self._streams = False
        self._ended = False
        self._failure: Failure | None = None
        self._untaken = 0
        self._tries = 1
        self._running: PipeExchange = pool.open(request, self)
        exchange.on_left = self._cancel
        exchange.on_resumed = self._resume

    def begin(self, content_type: str) -> None:
        if content_type == _STREAM:
            self._streams = True
            self._exchange.begin(200, EVENTS)

    def take(self, piece: bytes) -> None:
        self._pieces.append(piece)
        if not self._streams:
            self._running.took(len(piece))  # an answer that is not streamed is kept until whole

    def end(self, failure: Failure | None) -> None:
        self._ended = True
        self._failure = failure

    def lose(self) -> None:
        """The replica is gone. What has answered nothing yet is asked of another, once."""
        exchange, request = self._exchange, self._request
        if exchange.left:
            return
        if self._streams or self._tries == _TRIES:
            self.end(failure_of(PipeLost()))
            self.flush()
            return
        # What the replica had begun it settles under the id that it knows: this is a new request.
        exchange.id = request_id()
        log.warning("asked_again", request_id=exchange.id, instead_of=request.request_id)
        request.request_id = exchange.id
        self._pieces.clear()
        self._tries += 1
        try:
            self._running = self._pool.open(request, self, but=self._running.replica)
        except NoReplica as error:
            exchange.refuse(error)

    def fail(self, error: Exception) -> None:
        self._exchange.fail(error)

    def flush(self) -> None:
        exchange, pieces = self._exchange, self._pieces
        if exchange.left:
            return
        if self._streams:
            if pieces:
                self._pieces = []
                data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                exchange.write(data)
                self._untaken += len(data)
            if self._ended:
                if self._failure is not None:
                    exchange.write(exchange.event(self._failure))
                exchange.end()
                return
            exchange.flush()
            if not exchange.paused:
                self._resume()
        elif self._ended:
            if self._failure is not None:
                exchange.refuse(self._failure)
            else:
                exchange.answer(200, b"".join(pieces))

    def _resume(self) -> None:
        size, self._untaken = self._untaken, 0
        self._running.took(size)

    def _cancel(self) -> None:
        self._running.cancel()
