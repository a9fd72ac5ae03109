"""The pipe: many requests between two parts on one stream, frames of a moment in one message.

A unary gRPC call costs some 400 µs of CPU in Python and a streamed message 80; frames that travel
together, on a wire of our own (`wire`), cost a few. What is opened here has flow control of its
own, so a slow reader stops its exchange and nobody else's. The messages are
`vlinders/api/v1/pipe.proto`.
"""

from vlinders_kit.pipe.client import Dial, PipeClient, PipeExchange, PipeLost, Receiver
from vlinders_kit.pipe.pool import NoReplica, PipePool
from vlinders_kit.pipe.server import Exchange, PipeServer

__all__ = [
    "Dial",
    "Exchange",
    "NoReplica",
    "PipeClient",
    "PipeExchange",
    "PipeLost",
    "PipePool",
    "PipeServer",
    "Receiver",
]
