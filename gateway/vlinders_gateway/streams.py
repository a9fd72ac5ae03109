"""The hot path: chat completions and embeddings as bytes, over the pipe to inference."""

from vlinders.api.v1.pipe_pb2 import PipeOpen
from vlinders_gateway.admission import Admission
from vlinders_gateway.bodies import ClientGone
from vlinders_gateway.dialects import DIALECTS
from vlinders_gateway.edge import Edge
from vlinders_gateway.exchange import EVENTS, JSON, Exchange
from vlinders_gateway.operations import Operation
from vlinders_kit.errors import failure_of
from vlinders_kit.pipe import PipeExchange, PipeFailed, PipeLost, PipePool


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

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._admission.admit(exchange, self._operation)
        request = PipeOpen(
            request_id=exchange.id,
            operation=self._operation.name,
            caller=principal.wire,
            body=await exchange.body(),
            deadline_ms=self._deadline_ms,
            traceparent=exchange.traceparent,
        )
        first, running = self._pool.open(request)
        try:
            await _answer(exchange, running)
        except PipeLost:
            if exchange.left:
                raise ClientGone from None
            if exchange.status:
                raise
            # The replica is gone and has answered nothing. What it had begun it settles by itself
            # under the same request id, so the client pays once whichever of the two is charged.
            _, running = self._pool.open(request, but=first)
            await _answer(exchange, running)


async def _answer(exchange: Exchange, running: PipeExchange) -> None:
    """Passes the answer on; a client that leaves meanwhile cancels it."""
    exchange.when_gone(running.cancel)
    try:
        head = await running.head()
        if head.content_type == EVENTS.decode():
            await _stream(exchange, running)
        else:
            await exchange.answer(200, await _whole(running), JSON)
    except PipeFailed as refused:
        if exchange.left:
            raise ClientGone from None
        await exchange.refuse(refused.failure)


async def _stream(exchange: Exchange, running: PipeExchange) -> None:
    """Bytes as they come. A stream that breaks says so in its last event, and has no [DONE]."""
    await exchange.begin(200, EVENTS)
    try:
        while data := await running.data():
            await exchange.write(data)
    except (PipeFailed, PipeLost) as broken:
        if exchange.left:
            raise ClientGone from None
        failure = broken.failure if isinstance(broken, PipeFailed) else failure_of(broken)
        await exchange.write(exchange.event(failure))
    await exchange.end()


async def _whole(running: PipeExchange) -> bytes:
    pieces = []
    while piece := await running.data():
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
