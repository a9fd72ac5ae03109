"""Writes the configuration of Envoy as the edge of a cluster: `make edge`.

Envoy ends TLS and speaks HTTP/2 with clients; all else is the gateway's: who calls, how often,
what a path means. So its bounds are the gateway's or just wider, for the gateway's words to reach
clients, and nothing is rewritten that it goes by. The types need `.venv/envoy` on the path.
"""

import json
import sys
from pathlib import Path

from clusters import gateways, own_pages
from envoy.config.bootstrap.v3.bootstrap_pb2 import Admin, Bootstrap
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from listeners import encrypted, own, plain
from messages import at, packed
from overload import overload

OUT = Path(__file__).parents[1] / "k8s" / "components" / "envoy"
TLS = "/etc/vlinders/tls"
"""Where the Secret of the certificate is mounted, as `tls.crt` and `tls.key`."""


def bootstrap() -> Bootstrap:
    return Bootstrap(
        node={"id": "edge", "cluster": "edge"},
        admin=Admin(address=at("127.0.0.1", 9901)),
        static_resources={
            "listeners": [encrypted(), plain(), own()],
            "clusters": [gateways(), own_pages()],
        },
        overload_manager=overload(),
    )


def certificate() -> DiscoveryResponse:
    """Where the certificate is. Its folder is watched: a renewed one is shown without a restart."""
    secret = secret_pb2.Secret(
        name="edge",
        tls_certificate={
            "certificate_chain": {"filename": f"{TLS}/tls.crt"},
            "private_key": {"filename": f"{TLS}/tls.key"},
            "watched_directory": {"path": TLS},
        },
    )
    return DiscoveryResponse(resources=[packed(secret)])


def written() -> dict[str, str]:
    """Name of each file → what is in it."""
    told: dict[str, Message] = {"envoy.json": bootstrap(), "certificate.json": certificate()}
    return {name: _json(message) for name, message in told.items()}


def _json(message: Message) -> str:
    """Sorted, since maps inside of packed messages have no order of their own."""
    fields = MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def main() -> int:
    for name, text in written().items():
        (OUT / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
