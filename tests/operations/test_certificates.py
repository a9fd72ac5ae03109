"""Parts that show each other certificates: who has none reaches none of them, and probes do."""

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.operations.conftest import Operated
from tests.platform import User
from vlinders_embedded.parts import PARTS, SERVICES

pytestmark = pytest.mark.anyio


async def test_a_probe_that_has_no_certificate_is_answered(operated: Operated) -> None:
    parts = operated.stack.access["parts"]
    async with httpx.AsyncClient() as http:
        for process in (each for part in PARTS for each in parts[part]):
            for path in ("healthz", "readyz"):
                assert (await http.get(f"http://{process['metrics']}/{path}")).status_code == 200


async def test_whoever_has_none_reaches_no_service(operated: Operated, loaded: User) -> None:
    """Load has gone through all of them, so those that have one do."""
    for part in SERVICES:
        (process,) = operated.stack.access["parts"][part]
        async with grpc.aio.insecure_channel(process["grpc"]) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await check(health_pb2.HealthCheckRequest(), timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
