"""The streams of inference replicas, over a real channel; the workers are real streams too."""

import hashlib
import hmac
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from vlinders.gpu_scheduler.v1 import picks_pb2 as pb
from vlinders.gpu_scheduler.v1 import workers_pb2 as workers
from vlinders.gpu_scheduler.v1.picks_pb2_grpc import PickServiceStub
from vlinders_kit.errors import failure_of
from vlinders_kit.testing import a_part, a_user


class Replica:
    """An inference replica, which asks what the test tells it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call = PickServiceStub(channel).Pick()
        self.standby = pb.StandbyTable()

    async def ask(
        self, *picks: pb.PickRequest, finished: tuple[str, ...] = ()
    ) -> dict[str, pb.PickAnswer]:
        """The answers by request, all of them."""
        await self.call.write(pb.PickRequests(picks=picks, finished_request_ids=finished))
        answers: dict[str, pb.PickAnswer] = {}
        while len(answers) < len(picks):
            answers.update({answer.request_id: answer for answer in (await self.hear()).answers})
        return answers

    async def pick(self, request_id: str, *excluded: str, model: str = "tiny") -> pb.PickAnswer:
        return (await self.ask(wanted(request_id, *excluded, model=model)))[request_id]

    async def suspects(self) -> set[tuple[str, int]]:
        """Those that it is told of next."""
        while not (heard := await self.hear()).HasField("suspects"):
            pass
        return {(worker.worker_id, worker.epoch) for worker in heard.suspects.workers}

    async def hear(self) -> pb.PickAnswers:
        answers = await self.call.read()
        assert isinstance(answers, pb.PickAnswers), await self.call.code()
        if answers.HasField("standby"):
            self.standby = answers.standby
        return answers


def wanted(request_id: str, *excluded: str, model: str = "tiny") -> pb.PickRequest:
    return pb.PickRequest(request_id=request_id, model=model, excluded_worker_ids=excluded)


@pytest.fixture
async def replica(platform: Any) -> AsyncIterator[Replica]:
    replica = Replica(platform.server.channel(a_part("inference")))
    yield replica
    replica.call.cancel()


def opened(text: str, key: bytes) -> pb.Ticket:
    """A ticket as the worker that has `key` reads it."""
    signed = pb.SignedTicket.FromString(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    assert hmac.new(key, signed.ticket, hashlib.sha256).digest() == signed.signature
    return pb.Ticket.FromString(signed.ticket)


def outstanding(platform: Any, worker_id: str = "worker_1") -> int:
    slot = platform.scheduler.hub.fleet.workers[worker_id].slots["tiny-chat"]
    return int(slot.outstanding)


async def test_a_pick_is_a_worker_and_the_right_to_use_it(platform: Any, replica: Replica) -> None:
    agent = await platform.worker()

    target = (await replica.pick("gen_1")).target

    assert (target.worker_id, target.slot_id) == ("worker_1", "tiny-chat")
    assert target.address == "http://10.0.0.7:9200"
    ticket = opened(target.ticket, agent.welcome.ticket_key)
    assert (ticket.request_id, ticket.epoch) == ("gen_1", agent.welcome.epoch)
    assert ticket.expires_at_hub_ms == (platform.clock.monotonic() + 5) * 1000


async def test_what_comes_together_is_answered_together(platform: Any, replica: Replica) -> None:
    for number in range(4):
        await platform.worker(f"worker_{number}")
    await replica.hear()

    await replica.call.write(pb.PickRequests(picks=[wanted(f"gen_{n}") for n in range(16)]))
    answers = (await replica.hear()).answers

    picked = [answer.target.worker_id for answer in answers]
    assert {picked.count(f"worker_{number}") for number in range(4)} == {4}


async def test_nobody_with_the_model_is_told_at_once_and_when_to_ask_again(
    platform: Any, replica: Replica
) -> None:
    await platform.worker()

    failure = failure_of((await replica.pick("gen_1", model="huge")).status)

    assert (failure.reason, failure.facts["model"]) == ("NO_WORKER", "huge")
    assert failure.status is grpc.StatusCode.UNAVAILABLE
    assert failure.retry_after is not None


async def test_a_full_worker_takes_more_when_something_ends(
    platform: Any, replica: Replica
) -> None:
    await platform.worker()
    answers = await replica.ask(*(wanted(f"gen_{n}") for n in range(6)))
    assert [answer.HasField("target") for answer in answers.values()] == [True] * 5 + [False]

    again = await replica.ask(wanted("gen_6"), finished=("gen_0",))

    assert again["gen_6"].HasField("target")


async def test_a_worker_that_is_late_is_given_no_more_than_it_says(
    platform: Any, replica: Replica
) -> None:
    agent = await platform.worker()
    await agent.report("gen_0", most=2)

    answers = await replica.ask(*(wanted(f"gen_{n}") for n in (1, 2)))

    assert answers["gen_1"].HasField("target")
    assert failure_of(answers["gen_2"].status).reason == "NO_WORKER"


async def test_a_request_without_an_id_is_refused_alone(platform: Any, replica: Replica) -> None:
    await platform.worker()

    answers = await replica.ask(wanted(""), wanted("gen_1"), wanted("g" * 200))

    assert failure_of(answers[""].status).violations[0].field == "request_id"
    assert answers["gen_1"].HasField("target")
    assert answers["g" * 200].HasField("status")


async def test_a_retry_goes_elsewhere_and_three_in_a_row_make_suspect(
    platform: Any, replica: Replica
) -> None:
    await platform.worker("worker_1")
    await platform.worker("worker_2")
    for number in range(3):
        answer = await replica.pick(f"gen_{number}", "worker_1")
        assert answer.target.worker_id == "worker_2"

    assert platform.state("worker_1") == "SUSPECT"
    assert platform.state("worker_2") == "ONLINE"


async def test_a_worker_that_declines_is_not_suspect(platform: Any, replica: Replica) -> None:
    await platform.worker("worker_1")
    await platform.worker("worker_2")
    for number in range(5):
        ask = wanted(f"gen_{number}", "worker_1")
        ask.declined = True
        await replica.ask(ask)

    assert platform.state("worker_1") == "ONLINE"


async def test_replicas_are_told_who_is_suspect_and_who_is_no_more(
    platform: Any, replica: Replica
) -> None:
    agent = await platform.worker("worker_1")
    await platform.worker("worker_2")
    epoch = agent.welcome.epoch
    target = (await replica.pick("gen_1", "worker_2")).target
    assert target.epoch == epoch

    for number in range(2, 4):
        await replica.pick(f"gen_{number}", "worker_1")
    await replica.call.write(pb.PickRequests(picks=[wanted("gen_4", "worker_1")]))
    assert await replica.suspects() == {("worker_1", epoch)}
    late = Replica(platform.server.channel(a_part("inference")))
    assert await late.suspects() == {("worker_1", epoch)}

    await agent.beat()
    assert await replica.suspects() == set()
    assert await late.suspects() == set()
    late.call.cancel()


async def test_a_workers_report_corrects_the_count(platform: Any, replica: Replica) -> None:
    agent = await platform.worker()
    await replica.pick("gen_1")
    await replica.pick("gen_2")

    await agent.report("gen_1", "gen_elsewhere")
    assert outstanding(platform) == 3
    await agent.report(finished=("gen_1", "gen_2"))
    assert outstanding(platform) == 0


async def test_a_replica_that_is_lost_leaves_only_what_runs(
    platform: Any, replica: Replica, until: Any
) -> None:
    agent = await platform.worker()
    await replica.ask(wanted("gen_runs"), wanted("gen_never_began"))
    await agent.report("gen_runs")
    hub = platform.scheduler.hub

    replica.call.cancel()
    await until(lambda: not hub.askers)
    platform.pass_time(5)
    assert outstanding(platform) == 2
    platform.pass_time(2)
    assert outstanding(platform) == 1


async def test_a_draining_worker_is_not_picked(platform: Any, replica: Replica) -> None:
    await platform.worker()
    platform.scheduler.hub.fleet.drain("worker_1")

    assert failure_of((await replica.pick("gen_1")).status).reason == "NO_WORKER"


async def test_a_slot_that_fails_is_not_picked_until_it_is_ready_again(
    platform: Any, replica: Replica
) -> None:
    agent = await platform.worker()
    slot = workers.Slot(id="tiny-chat", model="tiny", parallel=4)
    for state, can in ((workers.Slot.STATE_FAILED, False), (workers.Slot.STATE_READY, True)):
        slot.state = state
        await agent.say(inventory=workers.Inventory(slots=[slot]))
        await agent.beat()
        assert (await replica.pick("gen_1")).HasField("target") is can


async def test_the_standby_table_comes_by_itself_with_tickets_for_any_request(
    platform: Any, replica: Replica
) -> None:
    agent = await platform.worker()
    await replica.pick("gen_1")
    while not replica.standby.entries:
        await replica.hear()

    (entry,) = replica.standby.entries
    assert (entry.model, entry.outstanding, entry.parallel) == ("tiny", 1, 4)
    assert entry.capacity == 5
    assert replica.standby.lifetime.seconds == 5
    ticket = opened(entry.target.ticket, agent.welcome.ticket_key)
    assert (ticket.request_id, ticket.worker_id) == ("", "worker_1")


@pytest.mark.parametrize("caller", [a_part("gateway"), a_user()])
async def test_only_inference_picks(platform: Any, caller: Any) -> None:
    call = PickServiceStub(platform.server.channel(caller)).Pick()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()

    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
