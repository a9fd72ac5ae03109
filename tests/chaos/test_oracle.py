"""The oracle finds what is planted, and nothing where nothing is."""

import pytest

from tests.chaos.load import Load, Operation
from tests.chaos.oracle import judge, settle
from tests.chaos.stack import Chaos
from tests.platform import User


@pytest.fixture
async def operations(chaos: Chaos, user: User) -> list[Operation]:
    """What a few callers did on a quiet day."""
    async with Load(chaos, user, streams=3, json=2, max_tokens=20, rate=200) as load:
        await load.until(lambda each: each.outcome == "ok", times=20)
    await settle(chaos, user)
    return load.operations


async def test_in_sound_books_nothing_is_found(
    chaos: Chaos, user: User, operations: list[Operation]
) -> None:
    verdict = await judge(chaos, user, operations)

    assert verdict.findings == []
    assert all(each.outcome == "ok" and each.seen == 20 for each in operations)
