"""The oracle finds what is planted, and nothing where nothing is."""

from collections.abc import AsyncIterator

import pytest

from tests.chaos.load import Load, Operation
from tests.chaos.oracle import Verdict, judge, settle
from tests.chaos.stack import Chaos
from tests.platform import User
from vlinders_kit.testing.figures import Figure

PLANTED = {
    "a record deleted": (
        "DELETE FROM usage_record WHERE request_id = :id",
        "INSERT INTO usage_record SELECT * FROM kept",
        "lost",
    ),
    "a record doubled": (
        "INSERT INTO usage_record SELECT * FROM twin",
        "DELETE FROM usage_record u USING twin t"
        " WHERE u.request_id = t.request_id AND u.finished_at = t.finished_at",
        "double",
    ),
    "a charge altered by a nano": (
        "UPDATE usage_record SET charged_nanos = charged_nanos + 1 WHERE request_id = :id",
        "UPDATE usage_record SET charged_nanos = charged_nanos - 1 WHERE request_id = :id",
        "unexplained",
    ),
    "a token more": (
        "UPDATE usage_record SET output_tokens = output_tokens + 1 WHERE request_id = :id",
        "UPDATE usage_record SET output_tokens = output_tokens - 1 WHERE request_id = :id",
        "unexplained",
    ),
    "a nano held": (
        "UPDATE account SET held_nanos = held_nanos + 1 WHERE tenant_id ="
        " (SELECT tenant_id FROM kept)",
        "UPDATE account SET held_nanos = held_nanos - 1 WHERE tenant_id ="
        " (SELECT tenant_id FROM kept)",
        "holds_left",
    ),
}
"""What is done to the books of one request → how it is undone, and what it must be found as."""


@pytest.fixture
async def operations(chaos: Chaos, user: User) -> AsyncIterator[list[Operation]]:
    """What a few callers did on a quiet day. The record of the last is `kept`."""
    async with Load(chaos, user, streams=3, json=2, max_tokens=20, rate=200) as load:
        await load.until(lambda each: each.outcome == "ok", times=20)
    await settle(chaos, user)
    last = load.operations[-1].request_id
    for statement in (
        "CREATE TABLE kept AS SELECT * FROM usage_record WHERE request_id = :id",
        "CREATE TABLE twin AS SELECT * FROM kept",
        "UPDATE twin SET finished_at = finished_at + interval '1 microsecond'",
    ):
        await chaos.platform.sql("billing", statement, **_named(statement, last))
    yield load.operations
    await chaos.platform.sql("billing", "DROP TABLE kept, twin")


async def test_what_is_planted_is_found_and_nothing_else(
    chaos: Chaos, user: User, figure: Figure, operations: list[Operation]
) -> None:
    assert all(each.outcome == "ok" and each.seen == 20 for each in operations)
    id, found = operations[-1].request_id, {}
    before = await judge(chaos, user, operations)

    for what, (plant, pull_out, _) in PLANTED.items():
        await chaos.platform.sql("billing", plant, **_named(plant, id))
        found[what] = _kinds(await judge(chaos, user, operations))
        await chaos.platform.sql("billing", pull_out, **_named(pull_out, id))

    assert before.findings == []
    missed = [what for what, (_, _, kind) in PLANTED.items() if kind not in found[what]]
    figure("planted errors not found", len(missed), must="0", condition=f"of {len(PLANTED)}")
    assert missed == []
    assert (await judge(chaos, user, operations)).findings == []


def _named(statement: str, id: str) -> dict[str, str]:
    return {"id": id} if ":id" in statement else {}


def _kinds(verdict: Verdict) -> set[str]:
    return {kind for kind, sentences in vars(verdict).items() if sentences}
