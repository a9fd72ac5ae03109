"""A Kafka that lets in who signs in, over TLS: what its URL says, and a real one that holds it."""

import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from vlinders_kit.bus import BusUnavailable, Envelope, open_bus
from vlinders_kit.bus.kafka_address import KafkaAddress
from vlinders_kit.embedded.kafka import Kafka, NotObtainable, Secured, jars
from vlinders_kit.embedded.programs import free_port, running
from vlinders_kit.ids import uuid7

PASSWORD = "a.p-ss/w:rd@of=vlinders"
IN_A_URL = "a.p-ss%2Fw%3Ard%40of%3Dvlinders"


def test_servers_alone_are_spoken_to_as_they_are() -> None:
    address = KafkaAddress.read("kafka://one:9092,two:9092")

    assert address.options() == {
        "bootstrap_servers": "one:9092,two:9092",
        "security_protocol": "PLAINTEXT",
    }


def test_a_user_signs_in_by_the_mechanism_that_is_named() -> None:
    address = KafkaAddress.read(f"kafka://me:{IN_A_URL}@one:9092?mechanism=PLAIN&tls=on")
    options = address.options()

    assert options.pop("ssl_context").check_hostname
    assert options == {
        "bootstrap_servers": "one:9092",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "me",
        "sasl_plain_password": PASSWORD,
    }
    assert PASSWORD not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "kafka://one",
        "kafka://one:9092?tsl=on",
        "kafka://one:9092?tls=yes",
        "kafka://one:9092?certificate=/our.pem",
        "kafka://me:planted@one:9092?mechanism=GSSAPI",
    ],
)
def test_what_is_not_understood_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="kafka://…") as refused:
        KafkaAddress.read(url)

    assert "planted" not in str(refused.value)


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[tuple[Secured, Path]]:
    """A node that has a secured port, and the authority of its certificate."""
    try:
        found = jars(pytestconfig.rootpath / ".cache/kafka")
    except NotObtainable as error:
        pytest.skip(f"needs Kafka: {error}")
    folder = tmp_path_factory.mktemp("kafka")
    pem, authority = _certified(folder)
    secured = Secured(free_port(), "vlinders", PASSWORD, pem)
    node = Kafka(folder / "node", found, free_port(), free_port(), secured)
    node.prepare()
    with running(node.program(), log=folder / "log", seconds=90):
        yield secured, authority


@pytest.fixture(params=["SCRAM-SHA-512", "PLAIN"])
def url(request: pytest.FixtureRequest, secured: tuple[Secured, Path]) -> str:
    port, authority = secured[0].port, secured[1]
    return (
        f"kafka://vlinders:{IN_A_URL}@127.0.0.1:{port}"
        f"?mechanism={request.param}&authority={authority}"
    )


async def test_who_signs_in_sends_and_gets_events(url: str) -> None:
    bus, topic = open_bus(url, "test"), f"topic.{uuid4().hex}"
    try:
        await bus.send([Envelope(uuid7(), topic, "key", "a.Type", b"said")])
        async with bus.subscribe("group", [topic]) as subscription:
            assert [envelope.body for envelope in await subscription.fetch()] == [b"said"]
    finally:
        await bus.close()


@pytest.mark.parametrize("wrong", ["password", "authority"])
async def test_nobody_is_let_in_otherwise(url: str, wrong: str) -> None:
    if wrong == "password":
        bus = open_bus(url.replace(IN_A_URL, "another"), "test")
    else:
        bus = open_bus(url.partition("&authority")[0] + "&tls=on", "test")
    try:
        with pytest.raises(BusUnavailable):
            await bus.send([Envelope(uuid7(), "topic", "key", "a.Type", b"said")])
    finally:
        await bus.close()


def _certified(folder: Path) -> tuple[Path, Path]:
    """Key and certificate for 127.0.0.1, and that of the authority that signed it."""
    own, authority = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    now = datetime.now(UTC)

    def signed(name: str, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        return (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(extension, critical=False)
            .sign(authority, hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )

    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    private = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem, trusted = folder / "node.pem", folder / "authority.pem"
    pem.write_bytes(private + signed("node", own, here))
    root = x509.BasicConstraints(ca=True, path_length=0)
    trusted.write_bytes(signed("authority", authority, root))
    return pem, trusted


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
