"""The tables as mapped are the tables as migrated."""

from vlinders_gpu_scheduler.models import Table
from vlinders_kit.db import Database
from vlinders_kit.migrations import drift


async def test_no_drift(db: Database) -> None:
    assert await drift(db.engine, Table.metadata) == []
