"""The streams of workers, over a real channel and a real Postgres."""

from typing import Any

import grpc
import psycopg
import pytest
from sqlalchemy import select

from vlinders.api.v1 import options_pb2 as api
from vlinders.gpu_scheduler.v1 import workers_pb2 as pb
from vlinders.gpu_scheduler.v1.workers_pb2_grpc import WorkerServiceStub
from vlinders_gpu_scheduler.models import Registration
from vlinders_kit.db import Database
from vlinders_kit.errors import failure_of
from vlinders_kit.testing import Cluster, a_user

OPERATOR = a_user(roles=[api.ROLE_OPERATOR])


async def reason(agent: Any) -> str:
    return failure_of(await agent.failure()).reason


async def written(db: Database, platform: Any) -> dict[str, str]:
    """State of each worker, as it is kept."""
    await platform.scheduler.hub.registry.settled()
    async with db.begin() as tx:
        return {row.id: row.state for row in await tx.scalars(select(Registration))}


class TestHello:
    async def test_is_answered_with_epoch_lease_and_key(self, platform: Any) -> None:
        agent = await platform.agent().hello()

        welcome = agent.welcome
        assert welcome.epoch > 0
        assert welcome.lease.ToTimedelta().total_seconds() == 15
        assert welcome.beat_period.ToTimedelta().total_seconds() == 2
        assert len(welcome.ticket_key) == 32
        assert welcome.hub_clock_ms == platform.clock.monotonic() * 1000

    @pytest.mark.parametrize("token", ["", "another token of some length"])
    async def test_needs_the_join_token(self, platform: Any, token: str) -> None:
        assert await reason(platform.agent(token)) == "INVALID_JOIN_TOKEN"

    async def test_without_any_token_is_refused(self, platform: Any) -> None:
        async with grpc.aio.insecure_channel(platform.server.address) as channel:
            call = WorkerServiceStub(channel).Connect()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()

        assert failure_of(caught.value).reason == "INVALID_JOIN_TOKEN"

    async def test_comes_first(self, platform: Any) -> None:
        agent = platform.agent()
        await agent.say(beat=pb.Beat(seq=1))

        assert await reason(agent) == "HELLO_EXPECTED"

    async def test_comes_once(self, platform: Any) -> None:
        agent = await platform.worker()
        await agent.say(hello=pb.Hello(worker_id="worker_2", boot_id="b", address="http://x:1"))

        assert await reason(agent) == "HELLO_EXPECTED"

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"worker_id": ""}, "worker_id"),
            ({"boot_id": "b" * 65}, "boot_id"),
            ({"running_request_ids": ["gen"] * 10_001}, "running_request_ids"),
            ({"inventory": pb.Inventory(slots=[pb.Slot()])}, "inventory.slots[0].id"),
            ({"inventory": pb.Inventory(gpus=[pb.Gpu()] * 65)}, "inventory.gpus"),
        ],
    )
    async def test_that_is_not_valid_is_refused_field_by_field(
        self, platform: Any, wrong: dict[str, Any], field: str
    ) -> None:
        agent = platform.agent()
        usual = {"worker_id": "worker_1", "boot_id": "b", "address": "http://x:1"}
        await agent.say(hello=pb.Hello(**{**usual, **wrong}))

        failure = failure_of(await agent.failure())

        assert failure.status is grpc.StatusCode.INVALID_ARGUMENT
        assert field in [broken.field for broken in failure.violations]

    async def test_that_is_huge_is_refused(self, platform: Any) -> None:
        agent = platform.agent()
        await agent.say(
            hello=pb.Hello(worker_id="w", boot_id="b", running_request_ids=["x" * 2_000_000])
        )

        assert (await agent.failure()).code() is grpc.StatusCode.INVALID_ARGUMENT

    async def test_of_too_many_at_once_is_told_to_come_again(self, platform: Any) -> None:
        platform.scheduler.hub._admission._left = 0
        agent = platform.agent()
        await agent.say(hello=pb.Hello(worker_id="w", boot_id="b", address="http://x:1"))

        failure = failure_of(await agent.failure())

        assert failure.reason == "TOO_MANY_HELLOS"
        assert failure.retry_after is not None


class TestBeats:
    async def test_are_acknowledged_with_the_hubs_clock(self, platform: Any) -> None:
        agent = await platform.agent().hello()

        lease = await agent.beat()

        assert (lease.beat_seq, lease.epoch) == (1, agent.welcome.epoch)
        assert lease.hub_clock_ms == platform.clock.monotonic() * 1000
        assert platform.state() == "ONLINE"

    async def test_tell_of_a_worker_that_hears_no_answer(self, platform: Any) -> None:
        agent = await platform.agent().hello()
        states = []
        for answered in (0, 0, 0, 0, 4):
            await agent.beat(answered=answered)
            states.append(platform.state())

        assert states == ["ONLINE", "ONLINE", "SUSPECT", "SUSPECT", "ONLINE"]

    async def test_of_an_older_agent_do_not_tell_that(self, platform: Any) -> None:
        agent = await platform.agent().hello()
        for _ in range(5):
            await agent.beat()

        assert platform.state() == "ONLINE"

    async def test_of_another_epoch_end_the_stream(self, platform: Any) -> None:
        agent = await platform.worker()
        await agent.say(beat=pb.Beat(seq=2, epoch=agent.welcome.epoch - 1))

        assert await reason(agent) == "STALE_EPOCH"

    async def test_and_loads_of_a_worker_that_was_replaced_are_refused(self, platform: Any) -> None:
        old = await platform.worker()
        new = await platform.worker(boot_id="boot_2")

        assert await reason(old) == "STALE_EPOCH"
        assert new.welcome.epoch > old.welcome.epoch
        assert (await new.beat()).epoch == new.welcome.epoch

    async def test_go_on_without_the_database(
        self, platform: Any, db: Database, postgres: Cluster, until: Any
    ) -> None:
        agent = await platform.worker()
        await platform.scheduler.hub.registry.settled()
        name = db.url.rpartition("/")[2]
        with psycopg.connect(postgres.url, autocommit=True) as admin:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            )
            for _ in range(20):
                platform.pass_time(2)
                await agent.beat()
            newcomer = platform.agent()
            await newcomer.say(hello=pb.Hello(worker_id="w", boot_id="b", address="http://x:1"))
            refused = failure_of(await newcomer.failure())
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

        assert platform.state() == "ONLINE"
        assert (refused.reason, refused.status) == (
            "REGISTRY_UNAVAILABLE",
            grpc.StatusCode.UNAVAILABLE,
        )
        assert refused.retry_after is not None


class TestStreamThatEnds:
    async def test_makes_its_worker_suspect(self, platform: Any, until: Any) -> None:
        agent = await platform.worker()

        agent.call.cancel()

        await until(lambda: platform.state() == "SUSPECT")

    async def test_and_begins_again_keeps_the_epoch(self, platform: Any, until: Any) -> None:
        first = await platform.worker()
        first.call.cancel()
        await until(lambda: platform.state() == "SUSPECT")

        again = await platform.agent().hello(last_epoch=first.welcome.epoch)
        await again.beat()

        assert again.welcome.epoch == first.welcome.epoch
        assert again.welcome.ticket_key == first.welcome.ticket_key
        assert platform.state() == "ONLINE"

    async def test_and_begins_again_elsewhere_is_written(self, platform: Any, db: Database) -> None:
        first = await platform.worker()
        await platform.agent().hello(last_epoch=first.welcome.epoch)
        registry = platform.scheduler.hub.registry
        await registry.settled()
        await platform.agent().hello(last_epoch=first.welcome.epoch, address="http://10.0.0.8:1")
        await registry.settled()

        async with db.begin() as tx:
            row = (await tx.scalars(select(Registration))).one()
        assert (row.address, row.epoch) == ("http://10.0.0.8:1", first.welcome.epoch)

    async def test_after_a_goodbye_makes_it_offline_and_ends_in_order(
        self, platform: Any, db: Database
    ) -> None:
        agent = await platform.worker()

        await agent.say(goodbye=pb.Goodbye(epoch=agent.welcome.epoch))

        assert await agent.call.read() is grpc.aio.EOF
        assert await agent.call.code() is grpc.StatusCode.OK
        assert await written(db, platform) == {"worker_1": "OFFLINE"}

    async def test_of_a_silent_worker_is_closed_when_its_lease_is_over(
        self, platform: Any, db: Database
    ) -> None:
        agent = await platform.worker()

        platform.pass_time(40)

        assert await reason(agent) == "STALE_EPOCH"
        assert await written(db, platform) == {"worker_1": "OFFLINE"}
        again = await platform.agent().hello(last_epoch=agent.welcome.epoch)
        assert again.welcome.epoch > agent.welcome.epoch


class TestInventory:
    async def test_is_written_when_something_lasting_changes(
        self, platform: Any, db: Database
    ) -> None:
        gpu = pb.Gpu(uuid="GPU-1", name="H200", memory_free_bytes=5)
        agent = await platform.worker(inventory=pb.Inventory(gpus=[gpu]))
        gpu.pretended = True
        await agent.say(inventory=pb.Inventory(gpus=[gpu]))
        await agent.beat()
        await platform.scheduler.hub.registry.settled()

        async with db.begin() as tx:
            row = (await tx.scalars(select(Registration))).one()
        assert row.pretended
        assert pb.Inventory.FromString(row.inventory).gpus[0].name == "H200"

    async def test_of_measurements_alone_writes_nothing(self, platform: Any) -> None:
        gpu = pb.Gpu(uuid="GPU-1", memory_free_bytes=5, power_watts=70)
        agent = await platform.worker(inventory=pb.Inventory(gpus=[gpu]))
        registry = platform.scheduler.hub.registry
        await registry.settled()
        gpu.memory_free_bytes, gpu.power_watts = 4, 300
        await agent.say(inventory=pb.Inventory(gpus=[gpu]))
        await agent.beat()

        assert not registry._rows
        worker = platform.scheduler.hub.fleet.workers["worker_1"]
        assert pb.Inventory.FromString(worker.inventory.body).gpus[0].power_watts == 300


class TestOperators:
    async def test_see_workers_page_by_page(self, platform: Any) -> None:
        for number in range(3):
            await platform.worker(f"worker_{number}")
        stub = WorkerServiceStub(platform.server.channel(OPERATOR))

        first = await stub.ListWorkers(pb.ListWorkersRequest(page=api.Page(size=2)))
        second = await stub.ListWorkers(
            pb.ListWorkersRequest(page=api.Page(size=2, token=first.page.next_token))
        )

        shown = [worker.id for worker in (*first.workers, *second.workers)]
        assert sorted(shown) == ["worker_0", "worker_1", "worker_2"]
        assert {worker.state for worker in first.workers} == {pb.Worker.STATE_ONLINE}

    async def test_see_what_runs_and_what_is_pretended(self, platform: Any, until: Any) -> None:
        from_file = pb.Gpu(uuid="GPU-1", name="H200", pretended=True)
        slot = pb.Slot(id="tiny-chat", model="tiny", state=pb.Slot.STATE_READY, parallel=4)
        agent = await platform.worker(inventory=pb.Inventory(gpus=[from_file], slots=[slot]))
        await agent.report("gen_1", "gen_2")
        stub = WorkerServiceStub(platform.server.channel(OPERATOR))

        (worker,) = (await stub.ListWorkers(pb.ListWorkersRequest())).workers

        assert worker.pretended
        assert worker.running_requests == 2
        assert worker.address == "http://10.0.0.7:9200"
        assert worker.inventory.gpus[0].name == "H200"

    async def test_drain_a_worker_which_is_told_and_then_leaves(
        self, platform: Any, db: Database
    ) -> None:
        agent = await platform.worker()
        stub = WorkerServiceStub(platform.server.channel(OPERATOR))

        worker = await stub.DrainWorker(pb.DrainWorkerRequest(worker_id="worker_1"))

        assert worker.state == pb.Worker.STATE_DRAINING
        assert (await agent.hear()).drain.deadline.ToTimedelta().total_seconds() == 130
        await agent.say(goodbye=pb.Goodbye(epoch=agent.welcome.epoch))
        assert await agent.call.read() is grpc.aio.EOF
        again = await stub.DrainWorker(pb.DrainWorkerRequest(worker_id="worker_1"))
        assert again.state == pb.Worker.STATE_OFFLINE

    async def test_drain_lasts_until_the_agent_is_restarted(self, platform: Any) -> None:
        agent = await platform.worker()
        stub = WorkerServiceStub(platform.server.channel(OPERATOR))
        await stub.DrainWorker(pb.DrainWorkerRequest(worker_id="worker_1"))
        await agent.hear()
        await agent.say(goodbye=pb.Goodbye(epoch=agent.welcome.epoch))
        await agent.call.read()
        await platform.scheduler.hub.registry.settled()

        same = platform.agent()
        await same.say(hello=pb.Hello(worker_id="worker_1", boot_id="boot_1", address="http://x:1"))

        assert await reason(same) == "WORKER_DRAINED"
        await platform.worker(boot_id="boot_2")
        assert platform.state() == "ONLINE"

    async def test_drain_of_nobody_is_not_found(self, platform: Any) -> None:
        stub = WorkerServiceStub(platform.server.channel(OPERATOR))

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.DrainWorker(pb.DrainWorkerRequest(worker_id="worker_9"))

        assert failure_of(caught.value).reason == "WORKER_NOT_FOUND"

    @pytest.mark.parametrize("role", [api.ROLE_OWNER, api.ROLE_VIEWER])
    async def test_alone_see_workers(self, platform: Any, role: int) -> None:
        stub = WorkerServiceStub(platform.server.channel(a_user(roles=[role])))

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListWorkers(pb.ListWorkersRequest())

        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
