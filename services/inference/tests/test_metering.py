"""Metering: one record for each admitted request, kept before its end is told, come what may."""

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from vlinders.inference.v1.events_pb2 import UsageGathered, UsageRecorded
from vlinders_inference import metering
from vlinders_inference.errors import UsageNotKept
from vlinders_inference.metering import UsageLog
from vlinders_kit.notices import Notices
from vlinders_kit.postgres import connect
from vlinders_kit.testing.lines import line

pytestmark = pytest.mark.anyio

STREAM = {"model": "m", "messages": [{"role": "user", "content": "count"}], "stream": True}


def usage(number: int) -> UsageRecorded:
    return UsageRecorded(request_id=f"req_{number}", tenant_id="ten_1")


async def outbox(url: str) -> list[str]:
    async with await connect(url, "test") as connection:
        found = await connection.execute("SELECT body FROM outbox ORDER BY seq")
        gathered = [UsageGathered.FromString(row[0]) for row in await found.fetchall()]
    return [record.request_id for event in gathered for record in event.records]


async def running(log: UsageLog) -> "asyncio.Task[None]":
    return asyncio.create_task(log.run())


async def stopped(task: "asyncio.Task[None]", log: UsageLog) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await log.close()


async def test_a_record_is_there_when_it_is_said_to_be_kept(database_url: str) -> None:
    log = UsageLog(database_url)
    task = await running(log)

    await asyncio.gather(*(log.add(usage(number)) for number in range(50)))

    assert await outbox(database_url) == [f"req_{number}" for number in range(50)]
    await stopped(task, log)


async def test_records_of_one_moment_are_written_together(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, sizes = UsageLog(database_url), []
    write = log._write

    async def counted(records: Any) -> None:
        sizes.append(len(records))
        await write(records)

    monkeypatch.setattr(log, "_write", counted)
    task = await running(log)

    await asyncio.gather(*(log.add(usage(number)) for number in range(500)))

    assert len(sizes) <= 3
    await stopped(task, log)


async def test_the_relay_is_told_at_once_and_then_not_for_each(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "TELL_SECONDS", 60.0)
    log = UsageLog(database_url)
    task = await running(log)
    async with await connect(database_url, "test") as connection:
        notices = Notices(connection)
        await notices.listen("outbox")
        await log.add(usage(0))
        heard = len(await notices.within(60))

        for number in range(1, 5):
            await log.add(usage(number))

        heard += len(await notices.within(0.5))
    assert heard == 1
    await stopped(task, log)


async def test_what_is_left_at_the_end_is_written(database_url: str) -> None:
    log = UsageLog(database_url)
    log.add(usage(1))

    await log.close()

    assert await outbox(database_url) == ["req_1"]


async def test_a_database_that_stands_still_fails_the_wait_in_time_and_loses_no_record(
    database_url: str,
) -> None:
    at = urlsplit(database_url)
    with line(at.hostname or "", at.port or 0) as laid:
        netloc = at.netloc.replace(str(at.port), str(laid.port))
        log = UsageLog(at._replace(netloc=netloc).geturl())
        task = await running(log)
        await log.add(usage(1))
        with laid.held():
            began = time.monotonic()
            with pytest.raises(UsageNotKept):
                await log.add(usage(2))
            waited = time.monotonic() - began
        await log.add(usage(3))
        await stopped(task, log)

    assert waited < metering.PATIENCE_SECONDS + 1
    assert sorted(set(await outbox(database_url))) == ["req_1", "req_2", "req_3"]


async def test_a_database_that_is_away_fails_the_wait_but_loses_no_record(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "PATIENCE_SECONDS", 0.3)
    log, away = UsageLog(database_url), True
    write = log._write

    async def unreliable(records: Any) -> None:
        if away:
            raise psycopg.OperationalError
        await write(records)

    monkeypatch.setattr(log, "_write", unreliable)
    task = await running(log)

    with pytest.raises(UsageNotKept):
        await log.add(usage(1))
    assert not log.writable
    away = False
    await log.add(usage(2))

    assert log.writable
    assert await outbox(database_url) == ["req_1", "req_2"]
    await stopped(task, log)


async def test_a_write_whose_answer_is_lost_comes_again_with_the_same_ids(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, lost = UsageLog(database_url), [True]
    write = log._write

    async def answerless(records: Any) -> None:
        await write(records)
        if lost:
            raise psycopg.OperationalError(lost.pop())

    monkeypatch.setattr(log, "_write", answerless)
    task = await running(log)

    await log.add(usage(1))

    async with await connect(database_url, "test") as connection:
        found = await connection.execute("SELECT count(*), count(DISTINCT id) FROM outbox")
        assert await found.fetchall() == [(2, 1)]
    await stopped(task, log)


async def test_nothing_is_admitted_while_usage_cannot_be_kept(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "PATIENCE_SECONDS", 0.3)

    async def away(records: Any) -> None:
        raise psycopg.OperationalError

    with monkeypatch.context() as broken:
        broken.setattr(stage.usage, "_write", away)
        first = await stage.ask(STREAM)
        second = await stage.ask(STREAM)

    assert first.failure.reason == "USAGE_NOT_KEPT"
    assert first.text == "one two 三"
    assert "[DONE]" not in first.events
    assert (second.failure.reason, second.body) == ("CREDIT_UNAVAILABLE", b"")
    assert len(stage.provider.bodies) == 1
    assert (await stage.record()).output_tokens == 3


async def test_a_request_that_breaks_inside_is_recorded_all_the_same(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("vlinders_inference.generations.EventStream", bug)

    answer = await stage.ask(STREAM)

    assert answer.failure.reason == "INTERNAL_ERROR"
    record = await stage.record()
    assert (record.outcome, record.charged_nanos) == (record.OUTCOME_FAILED, 0)
