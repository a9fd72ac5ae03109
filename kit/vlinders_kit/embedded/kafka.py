"""Kafka, for tests of what runs on it: one node in KRaft mode, from the jars of Maven Central."""

import hashlib
import shutil
import socket
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vlinders_kit.embedded.programs import Program, leashed

_POM = Path(__file__).with_name("kafka.pom.xml")
_SUMS = Path(__file__).with_name("kafka.sha256")
_FETCH_SECONDS = 300
_JAVA = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
"""Quick to start and small; a broker that serves for long wants none of these."""

_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""
_SECURED = """
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SECURED://127.0.0.1:{own}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURED:SASL_SSL
listener.name.secured.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.secured.plain.sasl.jaas.config={plain} required user_{user}="{password}";
listener.name.secured.scram-sha-512.sasl.jaas.config={scram} required;
listener.name.secured.ssl.keystore.type=PEM
listener.name.secured.ssl.keystore.location={pem}
"""
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
_LOGGING = """
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c: %m%n
"""


class NotObtainable(RuntimeError):
    """Kafka cannot run here; the text says what is missing."""


@dataclass(frozen=True)
class Secured:
    """Another port, encrypted, for the one user that there is."""

    port: int
    user: str
    password: str
    pem: Path
    """Key and certificate of the node, one after the other."""


@dataclass(frozen=True)
class Kafka:
    """A node whose data lies in `folder`, by the jars in `jars`."""

    folder: Path
    jars: Path
    port: int
    controller_port: int
    secured: Secured | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Makes the folder ready to start from: new if there is none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data = self.folder / "data"
        text = _PROPERTIES.format(port=self.port, controller=self.controller_port, data=data)
        text += self._own_lines()
        self._properties.write_text(text)
        (self.folder / "log4j2.properties").write_text(_LOGGING)
        if data.exists():
            return
        # The cluster's id: 16 bytes in base64.
        tool = ["kafka.tools.StorageTool", "format", "--standalone", "-t", "dmxpbmRlcnMtdGVzdHMtLQ"]
        made = subprocess.run(
            self._java(*tool, *self._users(), "-c", str(self._properties)),
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise RuntimeError(f"Kafka's storage was not formatted:\n{made.stdout}{made.stderr}")

    def program(self) -> Program:
        command = self._java("kafka.Kafka", str(self._properties))
        return Program("kafka", leashed(command), serves=self._serves)

    def _own_lines(self) -> str:
        """What the secured port is told; of two lines the later one counts."""
        if self.secured is None:
            return ""
        return _SECURED.format(
            port=self.port,
            controller=self.controller_port,
            own=self.secured.port,
            user=self.secured.user,
            password=self.secured.password,
            pem=self.secured.pem,
            plain=_PLAIN,
            scram=_SCRAM,
        )

    def _users(self) -> list[str]:
        if self.secured is None:
            return []
        user, password = self.secured.user, self.secured.password
        return ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _java(self, *arguments: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        return ["java", *_JAVA, logging, "-cp", f"{self.jars}/*", *arguments]

    def _serves(self) -> bool:
        """Whether it knows of a broker, itself: its port is open before that."""
        # Metadata, version 4, of no topic; the answer's number of brokers follows three numbers.
        body = struct.pack("!hhihi?", 3, 4, 0, -1, 0, False)
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as asking:
                asking.sendall(struct.pack("!i", len(body)) + body)
                asking.settimeout(2)
                answer = asking.recv(16, socket.MSG_WAITALL)
        except OSError:
            return False
        return len(answer) == 16 and struct.unpack("!4i", answer)[3] > 0


def jars(cache: Path) -> Path:
    """The folder with Kafka's jars, under `cache`: fetched by Maven the first time.

    Raises NotObtainable without Java or Maven, where the fetch fails, or for a jar that is not the
    one whose SHA-256 is written down beside the POM.
    """
    wanted = cache / hashlib.sha256(_POM.read_bytes() + _SUMS.read_bytes()).hexdigest()[:16]
    if shutil.which("java") is None:
        raise NotObtainable("`java` is not installed: a JDK or JRE of version 17 or newer")
    if wanted.exists():
        return wanted
    if shutil.which("mvn") is None:
        raise NotObtainable("`mvn` is not installed: Maven, which fetches Kafka once")
    cache.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix="fetching-", dir=cache))
    try:
        _fetch(building)
        building.rename(wanted)
    except OSError:  # another run was quicker
        if not wanted.exists():
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return wanted


def _fetch(folder: Path) -> None:
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    fetched = subprocess.run(
        ["mvn", "-q", "-B", "-f", str(_POM), *goal],
        capture_output=True,
        text=True,
        check=False,
        timeout=_FETCH_SECONDS,
    )
    if fetched.returncode:
        raise NotObtainable(f"Maven could not fetch Kafka:\n{fetched.stdout}{fetched.stderr}")
    known = {tuple(line.split()) for line in _SUMS.read_text().splitlines()}
    found = {(hashlib.sha256(it.read_bytes()).hexdigest(), it.name) for it in folder.iterdir()}
    if different := sorted({row[1] for row in known ^ found}):
        raise NotObtainable(f"not the jars that were expected: {', '.join(different)}")
