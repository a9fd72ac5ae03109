"""The stream to the scheduler: who, alive, what runs; and what its silence means here."""

from datetime import timedelta
from typing import Any

import pytest

from vlinders_kit import pressure


async def test_the_first_word_says_who_and_what(host: Any, numbered: Any) -> None:
    async with host(numbered) as here:
        [hello] = here.scheduler.hellos
        beats = here.scheduler.all("beat")

    assert hello.worker_id.startswith("worker_")
    assert (hello.address, hello.last_epoch) == (here.url, 0)
    assert [slot.id for slot in hello.inventory.slots] == ["numbered"]
    assert hello.inventory.cpu_count > 0
    assert {beat.epoch for beat in beats} <= {1}


async def test_the_worker_keeps_its_name_and_has_a_new_boot_each_start(
    host: Any, numbered: Any
) -> None:
    for _ in range(2):
        async with host(numbered, ready=False) as here:
            await here.scheduler.until(lambda s=here.scheduler: s.all("beat"))
            here.scheduler.heard.clear()

    first, second = here.scheduler.hellos
    assert first.worker_id == second.worker_id
    assert first.boot_id != second.boot_id


async def test_what_runs_and_what_has_ended_is_told(host: Any, numbered: Any) -> None:
    async with host(numbered) as here:
        async with here.ask("r1", stream=True, max_tokens=10_000, rate=100) as answer:
            await here.scheduler.until(lambda: "r1" in _told(here, "running_request_ids"))
            await here.cancel("r1", answer.request_info.headers["vlinders-ticket"])
        await here.scheduler.until(lambda: "r1" in _told(here, "finished_request_ids"))
        assert not here.agent.requests.running


async def test_how_many_it_takes_is_told_and_kept(
    host: Any, numbered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressure, "_INTERVAL", 3_600)  # else it is found to keep up meanwhile
    async with host(numbered) as here, here.ask("r1", stream=True, max_tokens=10_000, rate=100):
        here.agent.pressure.most = 1
        async with here.ask("r2", max_tokens=1) as answer:
            assert (answer.status, await _code(answer)) == (503, "NOT_SERVING")
        here.agent.pressure.adapt(0.0)  # it keeps up again
        # By itself it also looks now and then, and may have said a little more.
        await here.scheduler.until(lambda: 2 <= here.scheduler.all("load")[-1].most_requests < 100)
        async with here.ask("r3", max_tokens=1) as answer:
            assert answer.status == 200


async def test_a_lost_stream_comes_back_and_says_what_still_runs(host: Any, numbered: Any) -> None:
    async with host(numbered) as here, here.ask("r1", stream=True, max_tokens=10_000, rate=100):
        await here.scheduler.until(lambda: _told(here, "running_request_ids"))
        here.scheduler.hang_up()
        await here.scheduler.until(lambda: len(here.scheduler.hellos) == 2)

    again = here.scheduler.hellos[1]
    assert again.running_request_ids == ["r1"]
    assert again.last_epoch == 1


async def test_a_ticket_of_the_epoch_before_opens_nothing(host: Any, numbered: Any) -> None:
    async with host(numbered) as here:
        old = here.headers("r1", "numbered")
        here.scheduler.hang_up()
        await here.scheduler.until(lambda: here.agent.lease.epoch == 2)
        async with here.ask("r1", headers=old, max_tokens=1) as answer:
            assert (answer.status, await _code(answer)) == (409, "TICKET_STALE")
        async with here.ask("r1", max_tokens=1) as answer:
            assert answer.status == 200


async def test_without_acknowledged_beats_nothing_new_starts_but_streams_go_on(
    host: Any, numbered: Any, scheduler: Any
) -> None:
    scheduler.lease = timedelta(seconds=1)
    async with host(numbered) as here:
        async with here.ask("r1", stream=True, max_tokens=150, rate=100) as running:
            here.scheduler.renews = False
            await here.scheduler.until(lambda: not here.agent.lease.holds)
            async with here.ask("r2", max_tokens=1) as answer:
                assert (answer.status, await _code(answer)) == (503, "NOT_SERVING")
                assert answer.headers["retry-after"] == "1"
            text = await running.text()
        assert '"completion_tokens":150,' in text
        assert text.endswith("data: [DONE]\n\n")

        here.scheduler.renews = True
        await here.scheduler.until(lambda: here.agent.lease.holds)
        async with here.ask("r3", max_tokens=1) as answer:
            assert answer.status == 200


async def test_a_beat_says_which_answer_has_come(host: Any, numbered: Any) -> None:
    async with host(numbered) as here:
        await here.scheduler.until(lambda: here.scheduler.all("beat")[-1].answered >= 2)
        here.scheduler.renews = False
        await here.scheduler.until(lambda: _unanswered(here) > 3)
        here.scheduler.renews = True
        await here.scheduler.until(lambda: _unanswered(here) <= 1)


async def test_a_drain_lets_what_runs_finish_and_then_says_goodbye(
    host: Any, numbered: Any
) -> None:
    async with host(numbered) as here:
        async with here.ask("r1", stream=True, max_tokens=100, rate=200) as running:
            await here.scheduler.until(lambda: _told(here, "running_request_ids"))
            here.scheduler.drain(timedelta(seconds=20))
            await here.scheduler.until(lambda: here.agent.server.closed)
            async with here.ask("r2", max_tokens=1) as answer:
                assert (answer.status, await _code(answer)) == (503, "NOT_SERVING")
            assert (await running.text()).endswith("data: [DONE]\n\n")
        await here.scheduler.until(lambda: here.scheduler.all("goodbye"))
        assert here.produced("r1") == 100


async def test_a_drain_whose_stream_is_lost_is_off_until_it_is_asked_again(
    host: Any, numbered: Any
) -> None:
    async with host(numbered) as here, here.ask("r1", stream=True, max_tokens=10_000, rate=100):
        here.scheduler.drain(timedelta(seconds=20))
        await here.scheduler.until(lambda: here.agent.server.closed)
        here.scheduler.hang_up()
        await here.scheduler.until(lambda: here.agent.lease.epoch == 2)
        async with here.ask("r2", max_tokens=1) as answer:
            assert answer.status == 200


async def test_what_still_runs_at_the_end_of_a_drain_is_told_so(
    host: Any, numbered: Any, events: Any
) -> None:
    async with host(numbered) as here:
        async with here.ask("r1", stream=True, max_tokens=100_000, rate=200) as running:
            await here.scheduler.until(lambda: _told(here, "running_request_ids"))
            await running.content.readany()
            here.scheduler.drain(timedelta(milliseconds=200))
            *_, usage, error = await events(running)
        assert error["error"]["code"] == "ENGINE_FAILED"
        assert usage["usage"]["completion_tokens"] == here.produced("r1")
        await here.scheduler.until(lambda: here.scheduler.all("goodbye"))


async def test_a_worker_that_is_not_let_in_asks_again(
    host: Any, numbered: Any, scheduler: Any
) -> None:
    scheduler.welcomes = False
    async with host(numbered, ready=False):
        await scheduler.until(lambda: scheduler.refused == 2)
        scheduler.welcomes = True
        await scheduler.until_ready("numbered")


async def test_the_next_scheduler_is_tried_when_one_is_gone(
    host: Any, numbered: Any, scheduler: Any
) -> None:
    targets = f"127.0.0.1:9, 127.0.0.1:{scheduler.port}"
    async with host(numbered, scheduler=targets) as here:
        assert here.agent.lease.holds


async def test_the_next_scheduler_is_tried_when_one_answers_no_beat(
    host: Any, numbered: Any, scheduler: Any, another_scheduler: Any
) -> None:
    targets = f"127.0.0.1:{scheduler.port}, 127.0.0.1:{another_scheduler.port}"
    async with host(numbered, scheduler=targets) as here:
        scheduler.renews = False
        await another_scheduler.until(lambda: another_scheduler.all("beat"))

        assert len(scheduler.hellos) == 1, "it was not asked again"
        assert here.agent.lease.holds


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_a_request_is_not_started_twice(host: Any, numbered: Any, path: str) -> None:
    async with host(numbered) as here:
        async with here.ask("r1", stream=True, max_tokens=1) as answer:
            await answer.read()
        async with here.ask("r1", path=path, max_tokens=1) as answer:
            assert (answer.status, await _code(answer)) == (409, "REQUEST_RUNS")
        async with here.ask("r2", slot_id="unknown") as answer:
            assert (answer.status, await _code(answer)) == (503, "SLOT_NOT_READY")


def _unanswered(here: Any) -> int:
    beat = here.scheduler.all("beat")[-1]
    return int(beat.seq - beat.answered)


def _told(here: Any, ids: str) -> list[str]:
    loads = here.scheduler.all("load")
    return [id for load in loads for slot in load.slots for id in getattr(slot, ids)]


async def _code(answer: Any) -> str:
    told: str = (await answer.json())["error"]["code"]
    return told
