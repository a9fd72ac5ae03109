"""Whether a process serves, asked by its own protocol: gRPC health, HTTP, its program's test."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vlinders_kit.embedded.programs import Program

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


def http(address: str, path: str) -> Asks:
    """`GET path` is answered with 200."""

    async def serves() -> bool:
        host, _, port = address.rpartition(":")
        request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        try:
            async with asyncio.timeout(_SECONDS):
                reader, writer = await asyncio.open_connection(host, int(port))
                with contextlib.closing(writer):
                    writer.write(request.encode())
                    status = await reader.readline()
        except (OSError, TimeoutError):
            return False
        return status.split()[1:2] == [b"200"]

    return serves


def program(server: Program) -> Asks:
    """The program's own test, which may block."""

    async def serves() -> bool:
        return await asyncio.to_thread(server.serves)

    return serves


async def listens(address: str) -> bool:
    """Whether anything accepts connections: cheaper to ask, again and again, than by gRPC."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True
