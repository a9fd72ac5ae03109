"""What calls to services go by."""

from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from vlinders_kit.callers import Identity

Channels = Mapping[str, grpc.aio.Channel]
"""Domain, as `vlinders.auth`, → the channel to it."""


@dataclass(frozen=True)
class Wires:
    """The channels, who calls over them, and how many seconds a call may take."""

    channels: Channels
    identity: Identity
    deadline: float
