"""Where a Kafka is, who we are there, and what is encrypted: all in one URL.

    kafka://host:port,host:port
    kafka://user:password@host:port?mechanism=SCRAM-SHA-512&tls=on
    kafka://host:port?authority=/ca.pem&certificate=/our.pem&key=/our.key

`tls=on` trusts what the machine trusts; `authority` (PEM) trusts nobody else. A `certificate` with
its `key` is shown to brokers that ask for one. A user signs in by `mechanism`, SCRAM-SHA-512 unless
another is named. Name and password are written as URLs write them (`%40` for `@`).
"""

import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
_PARAMETERS = {"tls", "authority", "certificate", "key", "mechanism"}


@dataclass(frozen=True)
class KafkaAddress:
    servers: str
    """`host:port,host:port`."""
    user: str = ""
    password: str = field(default="", repr=False)
    mechanism: str = MECHANISMS[0]
    tls: bool = False
    authority: str | None = None
    certificate: str | None = None
    key: str | None = None

    @classmethod
    def read(cls, url: str) -> "KafkaAddress":
        """Raises ValueError, whose text has no password."""
        place, _, query = url.removeprefix("kafka://").partition("?")
        identity, _, servers = place.rpartition("@")
        user, _, password = identity.partition(":")
        told = dict(parse_qsl(query, keep_blank_values=True))
        if unknown := sorted(told.keys() - _PARAMETERS):
            raise ValueError(f"kafka://…: there is no {', '.join(unknown)}")
        if not all(server.rpartition(":")[2].isdigit() for server in servers.split(",")):
            raise ValueError("kafka://…: brokers are host:port,host:port")
        if told.get("tls", "on") not in ("on", "off"):
            raise ValueError("kafka://…: tls is on or off")
        mechanism = told.get("mechanism", MECHANISMS[0])
        if mechanism not in MECHANISMS:
            raise ValueError(f"kafka://…: mechanism is one of {', '.join(MECHANISMS)}")
        if ("certificate" in told) != ("key" in told):
            raise ValueError("kafka://…: certificate and key go together")
        files = ("authority", "certificate")
        return cls(
            servers,
            unquote(user),
            unquote(password),
            mechanism,
            tls=told.get("tls", "on" if any(map(told.get, files)) else "off") == "on",
            authority=told.get("authority"),
            certificate=told.get("certificate"),
            key=told.get("key"),
        )

    def options(self) -> dict[str, Any]:
        """What aiokafka's clients are told. Reads the files; raises OSError and ssl.SSLError."""
        sasl, protocol = "SASL_" if self.user else "", "SSL" if self.tls else "PLAINTEXT"
        options: dict[str, Any] = {
            "bootstrap_servers": self.servers,
            "security_protocol": f"{sasl}{protocol}",
        }
        if self.user:
            options["sasl_mechanism"] = self.mechanism
            options["sasl_plain_username"] = self.user
            options["sasl_plain_password"] = self.password
        if self.tls:
            context = ssl.create_default_context(cafile=self.authority)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
            options["ssl_context"] = context
        return options
