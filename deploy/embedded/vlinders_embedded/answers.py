"""Whether a process serves, or lives, asked by its own protocol: gRPC health, HTTP, its program's.

What serves can be used now. What lives answers something: it may drain, stand by, or wait for
others, and is not helped by being started again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Asks = Callable[[], Awaitable[bool]]
_SECONDS = 2.0


def grpc_health(address: str) -> Asks:
    """The process says SERVING for itself as a whole."""

    async def serves() -> bool:
        if not await listens(address):
            return False
        async with grpc.aio.insecure_channel(address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            try:
                answer = await check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
            except grpc.aio.AioRpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    return serves


def grpc_answers(address: str) -> Asks:
    """The process says anything to a question for its health."""

    async def lives() -> bool:
        async with grpc.aio.insecure_channel(address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            try:
                await check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
            except grpc.aio.AioRpcError as error:
                silent = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
                return error.code() not in silent
        return True

    return lives


def http(address: str, path: str, *, status: bytes | None = b"200") -> Asks:
    """`GET path` is answered with this status; None: with any."""

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
        said = line.split()[1:2]
        return bool(said) if status is None else said == [status]

    return serves


def program(ask: Callable[[], bool]) -> Asks:
    """A program's own test, which may block."""

    async def asked() -> bool:
        return await asyncio.to_thread(ask)

    return asked


async def listens(address: str) -> bool:
    """Whether anything accepts connections: cheaper to ask, again and again, than by gRPC."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True
