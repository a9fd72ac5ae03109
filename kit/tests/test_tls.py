"""With certificates parts take nobody but parts, and each for who it is."""

from typing import Any

import grpc
import pytest

from vlinders.auth.v1 import identity_pb2 as pb
from vlinders.auth.v1.identity_pb2_grpc import (
    IdentityServiceServicer,
    IdentityServiceStub,
    add_IdentityServiceServicer_to_server,
)
from vlinders_kit.callers import Identity
from vlinders_kit.rpc import Guard, connect
from vlinders_kit.testing import CALLER_KEY
from vlinders_kit.testing.certificates import Authority
from vlinders_kit.tls import Tls

ASK = pb.IntrospectRequest(session_id="ses_1")


OURS, ANOTHER = Authority(), Authority()


class Servicer(IdentityServiceServicer):
    async def Introspect(self, request: Any, context: Any) -> pb.IntrospectResponse:
        return pb.IntrospectResponse()


async def ask(server: Tls, client: Tls | None) -> pb.IntrospectResponse:
    """The gateway's call to a server that shows `server`, with what `client` shows."""
    serving = grpc.aio.server(interceptors=[Guard("vlinders.auth", CALLER_KEY)])
    add_IdentityServiceServicer_to_server(Servicer(), serving)
    port = serving.add_secure_port("127.0.0.1:0", server.for_server())
    await serving.start()
    identity = Identity("gateway", CALLER_KEY)
    channel = connect(f"127.0.0.1:{port}", "vlinders.auth", identity, client)
    try:
        answer: pb.IntrospectResponse = await IdentityServiceStub(channel).Introspect(ASK)
        return answer
    finally:
        await channel.close()
        await serving.stop(None)


async def test_parts_of_one_authority_talk_wherever_they_are() -> None:
    await ask(OURS.part("vlinders.auth"), OURS.part("gateway"))


@pytest.mark.parametrize(
    ("server", "client"),
    [
        (OURS.part("vlinders.auth"), None),
        (OURS.part("vlinders.auth"), ANOTHER.part("gateway")),
        (ANOTHER.part("vlinders.auth"), OURS.part("gateway")),
        (OURS.part("vlinders.billing"), OURS.part("gateway")),
        (
            OURS.part("vlinders.auth"),
            Tls(ANOTHER.part("gateway").certificate, ANOTHER.part("gateway").key, OURS.certificate),
        ),
    ],
    ids=["bare client", "strangers", "false server", "another part", "false client"],
)
async def test_who_shows_no_certificate_for_who_it_is_is_refused(
    server: Tls, client: Tls | None
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(server, client)

    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_key_is_not_shown() -> None:
    part = OURS.part("gateway")

    assert part.key.decode().splitlines()[1] not in repr(part)
