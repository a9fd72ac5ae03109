"""The process: takes events, serves, and goes when it is told, whoever still listens."""

import asyncio
import os
import sys
from asyncio.subprocess import Process as Subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from vlinders.auth.v1.events_pb2 import TenantCreated
from vlinders.billing.v1 import credit_pb2 as credit
from vlinders.billing.v1 import ledger_pb2 as ledger
from vlinders.billing.v1.credit_pb2_grpc import CreditServiceStub
from vlinders.billing.v1.ledger_pb2_grpc import LedgerServiceStub
from vlinders_kit.bus import open_bus
from vlinders_kit.callers import CallerKey
from vlinders_kit.embedded.programs import free_port
from vlinders_kit.events import envelope
from vlinders_kit.ids import new_id
from vlinders_kit.rpc import connect
from vlinders_kit.testing import Cluster, a_part, a_user
from vlinders_kit.testing.callers import Impersonation

KEY = "5a" * 32


@pytest.fixture
def bus_url(postgres: Cluster) -> Iterator[str]:
    with postgres.database("vlinders_kit.bus") as url:
        yield url


@pytest.fixture
async def running(database_url: str, bus_url: str) -> AsyncIterator[tuple[str, Subprocess]]:
    """A billing process and its address."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vlinders_billing.main",
        env={
            **os.environ,
            "VLINDERS_BILLING_PORT": str(port),
            "VLINDERS_BILLING_CALLER_KEY": KEY,
            "VLINDERS_BILLING_DATABASE_URL": database_url,
            "VLINDERS_BILLING_BUS": bus_url,
            "VLINDERS_BILLING_SIGNUP_GRANT": "0.5",
        },
    )
    yield f"127.0.0.1:{port}", process
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def channel(address: str, service: str = "", tenant_id: str = "") -> grpc.aio.Channel:
    caller = a_part(service) if service else a_user(tenant_id=tenant_id)
    key = CallerKey(bytes.fromhex(KEY))
    return connect(address, "vlinders.billing", Impersonation(caller, key))


def an_ask(holder: str, nanos: int) -> credit.AcquireLeaseRequest:
    return credit.AcquireLeaseRequest(
        lease_id=new_id("lease"),
        tenant_id="ten_1",
        holder=holder,
        least_nanos=nanos,
        wanted_nanos=nanos,
    )


async def test_it_opens_wallets_lends_and_ends(
    running: tuple[str, Subprocess], bus_url: str
) -> None:
    address, process = running
    async with channel(address, "inference") as own, channel(address, tenant_id="ten_1") as user:
        check = HealthStub(own).Check
        ready = await check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60)
        assert ready.status == health_pb2.HealthCheckResponse.SERVING
        bus = open_bus(bus_url, "test")
        await bus.send([envelope(TenantCreated(tenant_id="ten_1", operator=True))])
        await bus.close()
        while True:
            wallet = await LedgerServiceStub(user).GetMyWallet(ledger.GetMyWalletRequest())
            if wallet.balance_nanos == 1_000_000_500_000_000:
                break
        stub = CreditServiceStub(own)
        assert (await stub.AcquireLease(an_ask("inf_1", 5))).granted_nanos == 5
        watching = stub.WatchRecalls(credit.WatchRecallsRequest(holder="inf_1"))
        heard = asyncio.ensure_future(watching.read())
        while not heard.done():
            with suppress(grpc.aio.AioRpcError):  # the lease is not given back
                await stub.AcquireLease(an_ask("inf_2", wallet.balance_nanos))
        assert (await heard).tenant_id == "ten_1"

        process.terminate()

        while await watching.read() is not grpc.aio.EOF:
            pass
        assert await process.wait() == 0
