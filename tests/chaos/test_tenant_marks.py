"""Clients of many tenants that leave at any moment: nobody gets another's, and nothing stays."""

import asyncio
import random
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.chaos.load import Call, Operation
from tests.chaos.oracle import judge, settle
from tests.chaos.scale import scaled
from tests.chaos.stack import NUMBERED, Chaos
from tests.platform import User
from vlinders_kit.testing.figures import Figure

ABORTS = scaled(240, 10_000)
CLEAN = scaled(40, 1_000)
AT_ONCE = 40
TENANTS = 8
LONGEST_SECONDS = 0.3
LEFT_SECONDS = 5.0
"""After which no session may still be in a transaction that its client has left."""
POOL = 11
"""Connections that a process may have in its pool."""
SEED = 5
SERVICES = ("auth", "billing", "gpu_scheduler")
_MARK = re.compile(rb"mark-[0-9a-f]+-")

_IDLE = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND state LIKE 'idle in transaction%' AND state_change < now() - interval '5 seconds'
"""
_LOCKS = """
    SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND locktype <> 'advisory' AND now() - xact_start > interval '5 seconds'
"""
_POOLED = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'vlinders.' || current_database()
"""
"""Of a service that is one process. One connection watches over the others' server."""


@dataclass
class Tenant:
    """Somebody whose answers carry a mark of his own."""

    user: User
    key: str
    mark: str
    operations: list[Operation] = field(default_factory=list)
    foreign: list[bytes] = field(default_factory=list)
    marked: int = 0

    def look(self, answer: bytes) -> None:
        found = set(_MARK.findall(answer))
        self.marked += bool(found)
        self.foreign += found - {self.mark.encode()}


async def test_whoever_leaves_at_whatever_moment_nobody_gets_what_is_anothers(
    chaos: Chaos, figure: Figure
) -> None:
    tenants = [await _tenant(chaos) for _ in range(TENANTS)]
    chance = random.Random(SEED)
    await _at_once([partial(_leave, chaos, chance.choice(tenants), chance) for _ in range(ABORTS)])
    await asyncio.sleep(LEFT_SECONDS)
    idle, locks, pooled = await _what_is_left(chaos)
    await _at_once([partial(_stay, chaos, chance.choice(tenants)) for _ in range(CLEAN)])
    await settle(chaos, *(tenant.user for tenant in tenants))
    findings = [finding for it in tenants for finding in await _findings(chaos, it)]

    foreign = [mark for tenant in tenants for mark in tenant.foreign]
    condition = f"{ABORTS} clients left, {CLEAN} stayed, of {TENANTS} tenants"
    figure("answers with a foreign mark", len(foreign), must="0", condition=condition)
    figure(
        "sessions idle in a transaction",
        idle,
        must="0",
        condition=f"{LEFT_SECONDS:g} s after the last",
    )
    figure("locks left", locks, must="0", condition=f"{LEFT_SECONDS:g} s after the last")
    figure("connections of the largest pool", pooled, must=f"≤ {POOL}", condition=condition)
    figure("charges that are double or nobody's", len(findings), must="0", condition=condition)
    assert sum(tenant.marked for tenant in tenants) >= CLEAN
    assert foreign == []
    assert (idle, locks) == (0, 0)
    assert pooled <= POOL
    assert findings == [], findings[:5]


async def _findings(chaos: Chaos, tenant: Tenant) -> list[str]:
    """What is wrong with a tenant's money. How exact charges are is another test's subject: here
    a worker may be too busy to tell its count in time, which is then estimated, and marked so."""
    verdict = await judge(chaos, tenant.user, tenant.operations)
    records = await tenant.user.every("/v1/usage/records")
    estimated = {record["request_id"] for record in records if record["estimated"]}
    found = (*verdict.double, *verdict.unexplained, *verdict.holds_left)
    return [finding for finding in found if finding.split()[0] not in estimated]


async def _tenant(chaos: Chaos) -> Tenant:
    user = await chaos.platform.sign_up()
    mark = f"mark-{user.tenant_id.encode().hex()}-"
    return Tenant(user, (await user.key(name=mark))["key"], mark)


async def _leave(chaos: Chaos, tenant: Tenant, chance: random.Random) -> None:
    """Asks something, and leaves in the middle of whatever that is."""
    after, way = chance.random() * LONGEST_SECONDS, chance.choice((Call.close, Call.reset))
    operation = _operation(tenant, chance, left=True)
    call = await Call.open(
        chaos.stack.url, tenant.key, operation, max_tokens=200, rate=100, mark=tenant.mark
    )
    heard = b""
    try:
        async with asyncio.timeout(after):
            await call.head()
            async for piece in call.data():
                heard += piece
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        pass  # it was the moment, or the answer was over
    finally:
        way(call)
    tenant.look(heard)


async def _stay(chaos: Chaos, tenant: Tenant) -> None:
    operation = _operation(tenant, random.Random(), left=False)
    call = await Call.open(
        chaos.stack.url, tenant.key, operation, max_tokens=3, rate=500, mark=tenant.mark
    )
    await call.head()
    tenant.look(b"".join([piece async for piece in call.data()]))
    call.close()
    operation.outcome = "ok" if operation.status == 200 else "failed"
    assert operation.outcome == "ok"


def _operation(tenant: Tenant, chance: random.Random, *, left: bool) -> Operation:
    model, stream = NUMBERED, chance.random() < 0.7
    operation = Operation(len(tenant.operations), model, stream=stream, left=left)
    tenant.operations.append(operation)
    return operation


async def _at_once(work: list[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """All of it, so many at a time."""
    rest = iter(work)

    async def go_on() -> None:
        for each in rest:
            await each()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(go_on())


async def _what_is_left(chaos: Chaos) -> tuple[int, int, int]:
    """Sessions in transactions of the past, locks, and the size of the largest pool."""

    async def ask(statement: str) -> list[int]:
        rows = [await chaos.platform.sql(name, statement) for name in SERVICES]
        return [row[0][0] for row in rows]

    return sum(await ask(_IDLE)), sum(await ask(_LOCKS)), max(await ask(_POOLED))
