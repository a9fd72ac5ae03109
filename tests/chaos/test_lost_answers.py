"""Billing's COMMITs whose answers are lost: done, nobody was told, and asked again."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import grpc

from tests.chaos.beside import one_more
from tests.chaos.faults import Line, line
from tests.chaos.load import Load
from tests.chaos.oracle import judge, settle
from tests.chaos.scale import scaled
from tests.chaos.stack import Chaos
from tests.platform import User, eventually
from vlinders.billing.v1 import credit_pb2 as pb
from vlinders.billing.v1.credit_pb2_grpc import CreditServiceStub
from vlinders_embedded import answers
from vlinders_kit.callers import CallerKey, Identity
from vlinders_kit.embedded.programs import free_port
from vlinders_kit.ids import new_id
from vlinders_kit.rpc import connect
from vlinders_kit.testing.figures import Figure

LOST = scaled(8, 100)
KNOWN_SECONDS = 5.0
"""In which whoever asks again under the same id knows what became of it."""
NANOS = 1_000


async def test_what_a_lost_commit_has_done_is_known_by_its_id_and_done_once(
    chaos: Chaos, user: User, figure: Figure
) -> None:
    async with _far_billing(chaos) as (credit, laid):
        async with Load(chaos, user, streams=4, json=4, max_tokens=5, rate=50) as load:
            await load.until(lambda each: each.outcome == "ok", times=8)
            known = [await _borrow(credit, laid, user) for _ in range(LOST)]
        laid.lose_commits(0)
        await settle(chaos, user)
    verdict = await judge(chaos, user, load.operations)

    condition = f"{laid.lost} answers dropped, under load"
    figure(
        "outcome known by its id after a lost COMMIT",
        max(known),
        "s",
        must="≤ 5 s",
        condition=condition,
    )
    figure(
        "effects that came twice or not at all",
        len(verdict.findings),
        must="0",
        condition=condition,
    )
    assert laid.lost >= LOST
    assert max(known) <= KNOWN_SECONDS
    assert verdict.findings == []


async def _borrow(credit: Any, laid: Line, user: User) -> float:
    """Borrows and gives back, each until the answer comes; seconds until the slower one did.

    The replica also settles its share of the usage: which COMMIT is lost is chance.
    """
    lease = new_id("lease")
    ask = pb.AcquireLeaseRequest(
        lease_id=lease,
        tenant_id=user.tenant_id,
        holder="chaos",
        least_nanos=NANOS,
        wanted_nanos=NANOS,
    )
    back = pb.ReturnCreditRequest(holder="chaos")
    back.returns.add(return_id=new_id("ret"), lease_id=lease, nanos=NANOS, close=True)
    laid.lose_commits()
    granted, first = await _until_answered(lambda: credit.AcquireLease(ask))
    assert granted.granted_nanos == NANOS
    _, second = await _until_answered(lambda: credit.ReturnCredit(back))
    return max(first, second)


async def _until_answered(ask: Callable[[], Awaitable[Any]]) -> tuple[Any, float]:
    began = time.monotonic()
    while True:
        try:
            return await ask(), time.monotonic() - began
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _far_billing(chaos: Chaos) -> AsyncIterator[tuple[Any, Line]]:
    """Another replica of billing, whose line to PostgreSQL can lose answers."""
    port, inside, at = free_port(), free_port(), urlsplit(chaos.platform.database_url("billing"))
    secrets = json.loads((chaos.stack.var / "secrets.json").read_text())
    identity = Identity("inference", CallerKey(bytes.fromhex(secrets["caller_key"])))

    with line(at.hostname or "", at.port or 0) as laid:
        netloc = at.netloc.replace(str(at.port), str(laid.port))
        url = at._replace(netloc=netloc).geturl()
        told = {"port": port, "metrics_port": inside, "database_url": url}
        with one_more(chaos, "billing", "billing-far", **told):
            await eventually(answers.http(f"127.0.0.1:{inside}", "/readyz"), 60)
            async with connect(f"127.0.0.1:{port}", "vlinders.billing", identity) as channel:
                yield CreditServiceStub(channel), laid  # type: ignore[no-untyped-call]
