"""With certificates parts take nobody but parts, and each for who it is."""

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from vlinders.auth.v1 import identity_pb2 as pb
from vlinders.auth.v1.identity_pb2_grpc import (
    IdentityServiceServicer,
    IdentityServiceStub,
    add_IdentityServiceServicer_to_server,
)
from vlinders_kit.callers import Identity
from vlinders_kit.rpc import Guard, connect
from vlinders_kit.testing import CALLER_KEY
from vlinders_kit.tls import Tls

ASK = pb.IntrospectRequest(session_id="ses_1")


class Authority:
    """Makes certificates, as an operator's does."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        root = self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.certificate = root.public_bytes(Encoding.PEM)

    def part(self, name: str) -> Tls:
        """What the part `name` shows, and that it trusts this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        shown = self._signed(subject, key, names).public_bytes(Encoding.PEM)
        return Tls(shown, private, self.certificate)

    def _signed(self, subject: x509.Name, key: Any, extension: Any) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )


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
