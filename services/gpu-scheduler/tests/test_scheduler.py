"""Restarts, standbys and handing over: several schedulers on one real Postgres."""

from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from vlinders.api.v1 import options_pb2 as api
from vlinders.gpu_scheduler.v1 import picks_pb2 as picks
from vlinders.gpu_scheduler.v1 import workers_pb2 as pb
from vlinders.gpu_scheduler.v1.picks_pb2_grpc import PickServiceStub
from vlinders.gpu_scheduler.v1.workers_pb2_grpc import WorkerServiceStub
from vlinders_gpu_scheduler.scheduler import Standing
from vlinders_kit.db import Database
from vlinders_kit.errors import failure_of
from vlinders_kit.testing import a_part, a_user

OPERATOR = a_user(roles=[api.ROLE_OPERATOR])


async def picked(platform: Any, request_id: str = "gen_1") -> picks.PickAnswer:
    call = PickServiceStub(platform.server.channel(a_part("inference"))).Pick()
    await call.write(
        picks.PickRequests(picks=[picks.PickRequest(request_id=request_id, model="tiny")])
    )
    answers: list[picks.PickAnswer] = []
    while not answers:
        answers = list((await call.read()).answers)
    call.cancel()
    return answers[0]


class TestRestart:
    async def test_keeps_epochs_and_takes_in_what_runs(self, start: Any) -> None:
        async with start() as before:
            first = await before.worker()
            await before.scheduler.hub.registry.settled()
        async with start() as after:
            again = await after.agent().hello(
                last_epoch=first.welcome.epoch, running_request_ids=["gen_1", "gen_2"]
            )
            worker = after.scheduler.hub.fleet.workers["worker_1"]

            assert again.welcome.epoch == first.welcome.epoch
            assert again.welcome.ticket_key == first.welcome.ticket_key
            assert worker.slots["tiny-chat"].outstanding == 2
            await again.report("gen_1")
            assert worker.slots["tiny-chat"].outstanding == 1

    async def test_picks_before_workers_have_come_back(self, start: Any) -> None:
        async with start() as before:
            await before.worker()
            await before.scheduler.hub.registry.settled()
        async with start() as after:
            answer = await picked(after)

            assert answer.target.worker_id == "worker_1"

    async def test_ends_nobody_before_the_grace_and_then_whoever_did_not_come(
        self, start: Any
    ) -> None:
        async with start() as before:
            await before.worker("worker_1")
            await before.worker("worker_2")
            await before.scheduler.hub.registry.settled()
        async with start() as after:
            after.pass_time(29)
            back = await after.agent().hello("worker_1", last_epoch=0)
            assert after.state("worker_2") == "SUSPECT"
            after.pass_time(2)

            assert after.state("worker_2") is None
            assert back.welcome.epoch

    async def test_under_the_same_name_need_not_wait_for_its_own_term(
        self, start: Any, db: Database
    ) -> None:
        async with start("a"):
            pass  # gone without handing over
        async with start("a"), db.begin() as tx:
            assert await tx.scalar(text("SELECT term FROM owner")) == 2


class TestHealth:
    async def test_tells_who_is_active(self, start: Any, until: Any) -> None:
        async with start("a") as first, start("b", active=False) as second:
            assert first.standings == [Standing(active=True)]
            assert second.standings == []
            await first.scheduler.drain()
            await until(lambda: second.standings == [Standing(active=True)])

    async def test_tells_when_many_are_silent_and_when_they_are_heard(
        self, platform: Any, until: Any
    ) -> None:
        agents = [await platform.worker(f"worker_{number}") for number in range(5)]
        platform.pass_time(40)
        alarmed = REGISTRY.get_sample_value("vlinders_gpu_scheduler_many_silent")

        await until(lambda: platform.standings[-1] == Standing(active=True, alarmed=True))
        for agent in agents:
            await agent.beat()
        platform.pass_time(1)
        await until(lambda: platform.standings[-1] == Standing(active=True))

        assert alarmed is not None
        assert REGISTRY.get_sample_value("vlinders_gpu_scheduler_silence_alarms_total")


class TestStandby:
    async def test_sends_workers_and_inference_on(self, start: Any) -> None:
        async with start("a"), start("b", active=False) as standby:
            agent = standby.agent()
            refused = failure_of(await agent.failure())
            call = PickServiceStub(standby.server.channel(a_part("inference"))).Pick()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()

        assert (refused.reason, refused.status) == ("NOT_ACTIVE", grpc.StatusCode.UNAVAILABLE)
        assert failure_of(caught.value).reason == "NOT_ACTIVE"

    async def test_shows_workers_as_they_are_written_but_does_not_drain(self, start: Any) -> None:
        async with start("a") as active, start("b", active=False) as standby:
            await active.worker()
            await active.scheduler.hub.registry.settled()
            stub = WorkerServiceStub(standby.server.channel(OPERATOR))
            (worker,) = (await stub.ListWorkers(pb.ListWorkersRequest())).workers
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.DrainWorker(pb.DrainWorkerRequest(worker_id="worker_1"))

        assert worker.state == pb.Worker.STATE_ONLINE
        assert not worker.HasField("running_requests")
        assert failure_of(caught.value).reason == "NOT_ACTIVE"

    async def test_follows_at_once_when_the_active_one_hands_over(
        self, start: Any, until: Any
    ) -> None:
        async with start("a") as first, start("b", active=False) as second:
            agent = await first.worker()
            await first.scheduler.drain()

            assert failure_of(await agent.failure()).reason == "NOT_ACTIVE"
            await until(lambda: second.scheduler.active is not None)
            again = await second.agent().hello(last_epoch=agent.welcome.epoch)

        assert again.welcome.epoch == agent.welcome.epoch

    async def test_that_was_followed_while_it_slept_lets_all_go(
        self, start: Any, db: Database, until: Any
    ) -> None:
        async with start("a") as first:
            agent = await first.worker()
            hub = first.scheduler.hub
            async with db.begin() as tx:
                await tx.execute(text("UPDATE owner SET holder = 'b', term = term + 1"))

            first.clock.advance(60)  # the stall that the next look at the clock finds

            assert failure_of(await agent.failure()).reason == "NOT_ACTIVE"
            assert first.scheduler.active is not hub
