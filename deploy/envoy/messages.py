"""What all files of the configuration write it with."""

from datetime import timedelta

from envoy.config.core.v3.address_pb2 import Address
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

KIB = 1024
MOST_CONNECTIONS = 20_000
BUFFER = 256 * KIB
"""Bytes kept for a reader that does not read, on each side; then the gateway is held back."""


def seconds(number: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=number))
    return duration


def packed(message: Message) -> Packed:
    into = Packed()
    into.Pack(message)
    return into


def at(host: str, port: int) -> Address:
    return Address(socket_address={"address": host, "port_value": port})
