"""The plugin itself: databases of their own, servers that check callers, peers by script."""

import grpc
import psycopg
import pytest
import redis

from vlinders.auth.v1 import identity_pb2 as pb
from vlinders.auth.v1.identity_pb2_grpc import (
    IdentityServiceServicer,
    IdentityServiceStub,
)
from vlinders.auth.v1.identity_pb2_grpc import (
    add_IdentityServiceServicer_to_server as add_to_server,
)
from vlinders_kit.errors import NotFound, failure_of
from vlinders_kit.testing import Cluster, a_part, a_user, scripted, served


class NoSuchSession(NotFound):
    """There is no such session."""


def test_databases_are_apart(postgres: Cluster) -> None:
    with postgres.database() as one, postgres.database() as other:
        with psycopg.connect(one, autocommit=True) as connection:
            connection.execute("CREATE TABLE thing ()")
        with psycopg.connect(other) as connection:
            assert connection.execute("SELECT to_regclass('thing')").fetchone() == (None,)


def test_a_database_is_gone_after_its_test(postgres: Cluster) -> None:
    with postgres.database() as url:
        pass

    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


@pytest.mark.parametrize("time", ["first", "second"])
def test_valkey_is_empty_at_the_start(valkey: str, time: str) -> None:
    with redis.Redis.from_url(valkey) as client:
        assert client.dbsize() == 0
        client.set("key", time)


SERVICE = "vlinders.auth.v1.IdentityService"
ASK = pb.IntrospectRequest(session_id="ses_1")


async def test_a_scripted_peer_answers_in_turn_and_keeps_what_it_was_asked() -> None:
    peer = scripted(
        IdentityServiceServicer,
        Introspect=[pb.IntrospectResponse(caller={"account_id": "acc_1"}), NoSuchSession()],
    )
    async with served("vlinders.auth", (SERVICE, add_to_server, peer)) as auth:
        stub = IdentityServiceStub(auth.channel(a_part("gateway")))
        answer = await stub.Introspect(ASK)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Introspect(ASK)

    assert answer.caller.account_id == "acc_1"
    assert failure_of(refused.value).reason == "NO_SUCH_SESSION"
    assert peer.asked["Introspect"] == [ASK, ASK]


async def test_a_served_peer_holds_its_policy() -> None:
    peer = scripted(IdentityServiceServicer, Introspect=pb.IntrospectResponse())
    async with served("vlinders.auth", (SERVICE, add_to_server, peer)) as auth:
        stub = IdentityServiceStub(auth.channel(a_user()))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Introspect(ASK)

    assert failure_of(refused.value).reason == "NOT_PERMITTED"
    assert not peer.asked


def test_a_script_for_an_rpc_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="IdentityServiceServicer has no Inspect"):
        scripted(IdentityServiceServicer, Inspect=pb.IntrospectResponse())
