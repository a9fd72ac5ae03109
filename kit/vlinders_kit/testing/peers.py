"""gRPC for tests: a real server on a free port, and servicers that answer by script."""

import inspect
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from vlinders.api.v1.caller_pb2 import Caller
from vlinders_kit.callers import CallerKey
from vlinders_kit.rpc import OPTIONS, Guard, connect
from vlinders_kit.testing.callers import CALLER_KEY, Impersonation, a_part

Service = tuple[str, Callable[[Any, Any], None], Any]
"""Full name, generated `add_…_to_server`, servicer: the arguments of `Process.serve`."""


class Served:
    """A running server of one domain."""

    def __init__(self, domain: str, address: str, key: CallerKey) -> None:
        self.domain = domain
        self.address = address
        self._key = key
        self._channels: list[grpc.aio.Channel] = []

    def channel(self, caller: Caller | None = None) -> grpc.aio.Channel:
        """A channel that calls as `caller`, or as the gateway. Closed with the server."""
        identity = Impersonation(caller or a_part("gateway"), self._key)
        self._channels.append(connect(self.address, self.domain, identity))
        return self._channels[-1]

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


@asynccontextmanager
async def served(
    domain: str, *services: Service, key: CallerKey = CALLER_KEY
) -> AsyncIterator[Served]:
    """Serves `services` as a part serves them: callers, policies, validation and errors are real.

    async with served("vlinders.auth", ("vlinders.auth.v1.X", add_X_to_server, X(db))) as auth:
        stub = XStub(auth.channel(a_user()))
    """
    server = grpc.aio.server(interceptors=[Guard(domain, key)], options=OPTIONS)
    for _, add, servicer in services:
        add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    running = Served(domain, f"127.0.0.1:{port}", key)
    try:
        yield running
    finally:
        await running.close()
        await server.stop(None)


def scripted(servicer: type, **answers: Any) -> Any:
    """A servicer that answers each named RPC as told, and keeps what it was asked.

    An answer is a message, an exception to raise, a list of those (one a call, the last for ever),
    or a method's body `async def (request, context)`; for a stream, an async generator function.
    Requests are in `.asked["AcquireLease"]`, in their order.
    """

    def init(self: Any) -> None:
        self.asked = defaultdict(list)

    methods = {name: _method(name, answer) for name, answer in answers.items()}
    unknown = methods.keys() - set(dir(servicer))
    if unknown:
        raise TypeError(f"{servicer.__name__} has no {', '.join(sorted(unknown))}")
    return type(f"Scripted{servicer.__name__}", (servicer,), {**methods, "__init__": init})()


def _method(name: str, answer: Any) -> Any:
    if inspect.isasyncgenfunction(answer):

        async def stream(self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
            self.asked[name].append(request)
            async for item in answer(request, context):
                yield item

        return stream

    rest = list(answer) if isinstance(answer, list) else [answer]

    async def unary(self: Any, request: Any, context: Any) -> Any:
        self.asked[name].append(request)
        told = rest.pop(0) if len(rest) > 1 else rest[0]
        if inspect.iscoroutinefunction(told):
            return await told(request, context)
        if isinstance(told, Exception):
            raise told
        return told

    return unary
