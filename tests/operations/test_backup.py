"""A backup that is taken under load starts as a stack whose books are sound and whole."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest

from tests.operations.conftest import Operated
from tests.platform import Platform, User, chat, eventually
from vlinders_embedded.running import RunningStack, bring_up, take_down
from vlinders_kit.embedded.programs import free_port

pytestmark = pytest.mark.anyio


async def call(user: User) -> None:
    answer = await user.call("POST", "/v1/chat/completions", json=chat("plain"))
    assert answer.status_code == 200


def back_up(operated: Operated, to: Path) -> subprocess.CompletedProcess[str]:
    """What `make backup` runs."""
    return subprocess.run(
        [sys.executable, "-m", "vlinders_embedded", "backup", to],
        env={**os.environ, "VAR": str(operated.stack.var)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
async def restored(
    operated: Operated, user: User, tmp_path: Path
) -> AsyncIterator[tuple[Platform, list[dict[str, Any]]]]:
    """A stack that was started from a backup, and the records that there were when it was begun."""
    for _ in range(5):
        await call(user)
    before = await user.records()

    async def load() -> None:
        while True:
            await call(user)

    async with asyncio.TaskGroup() as group:
        loads = [group.create_task(load()) for _ in range(4)]
        done = await anyio.to_thread.run_sync(back_up, operated, tmp_path / "backup")
        for each in loads:
            each.cancel()
    assert done.returncode == 0, done.stderr + done.stdout
    stack: RunningStack = await anyio.to_thread.run_sync(
        lambda: bring_up(
            tmp_path / "backup",
            port=free_port(),
            variables={
                "VLINDERS_GATEWAY_PLAN_RATES": "free=0,operator=0",
                "CATALOGUE": str(operated.stack.var.parent / "catalogue.yaml"),
                "ENGINES": str(operated.stack.var.parent / "engines.yaml"),
                "KEY_OF_ENGINE": operated.engine.api_key,
            },
        )
    )
    try:
        async with httpx.AsyncClient(base_url=stack.url, timeout=30) as http:
            yield Platform(stack, http, operated.platform.first, operated.platform.second), before
    finally:
        await anyio.to_thread.run_sync(take_down, tmp_path / "backup")


async def test_a_backup_under_load_is_restored_with_sound_books(
    operated: Operated, user: User, restored: tuple[Platform, list[dict[str, Any]]]
) -> None:
    platform, before = restored
    then = User(platform.http, user.email, user.account_id, user.tenant_id, user.tokens)

    async def settled() -> bool:
        """What was recorded and not charged at the moment of the backup is charged now."""
        found = await platform.sql("inference", "SELECT count(*) FROM outbox")
        held = await platform.sql("billing", "SELECT sum(held_nanos) FROM account")
        return found[0][0] == 0 and held[0][0] == 0

    # Leases are held until they expire, a minute after their last renewal, and a grace.
    await platform.sql("billing", "UPDATE lease SET expires_at = now() - interval '1 hour'")
    await eventually(settled, seconds=40)
    audit = await platform.audit()
    assert audit["sound"] is True, audit
    records = await then.every("/v1/usage/records")
    kept = {record["request_id"]: record for record in records}
    assert [kept.get(record["request_id"]) for record in before] == before
    charged = sum(record["charged_nanos"] for record in records)
    assert await then.balance() == 10 * 10**9 - charged
    # What the old stack knew at the moment of the backup, it knows in the same words.
    assert len(records) >= len(before)
    assert {record["request_id"] for record in records} <= {
        record["request_id"] for record in await user.every("/v1/usage/records")
    }


def test_a_backup_overwrites_nothing(operated: Operated, tmp_path: Path) -> None:
    done = back_up(operated, tmp_path)
    assert done.returncode == 1
    assert "exists" in done.stderr
