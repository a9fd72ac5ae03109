"""The loads: how many ask at a time, for what, and how fast the provider says it."""

from dataclasses import dataclass
from typing import Any

_MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant. Answer briefly."},
    {"role": "user", "content": "Hello, how are you today? Tell me something about foxes."},
]


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    connections: int
    """Each sends its next request when the last one is answered."""
    model: str
    stream: bool

    @property
    def unit(self) -> str:
        """What its cost is told by."""
        return "chunk" if self.stream else "request"

    @property
    def body(self) -> dict[str, Any]:
        asked: dict[str, Any] = {"model": self.model, "messages": _MESSAGES, "max_tokens": 64}
        if self.stream:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        return asked


def _json(connections: int) -> Case:
    return Case(f"json-{connections}", f"JSON, {connections}", connections, "mock-16-0", False)


def _stream(kind: str, connections: int, model: str) -> Case:
    name, title = f"{kind}-{connections}", f"{kind}, {connections}"
    return Case(name, title, connections, model, stream=True)


CASES: tuple[Case, ...] = (
    *(_json(connections) for connections in (1, 16, 64)),
    _stream("burst", 16, "mock-32-0"),
    *(_stream("paced", connections, "mock-32-10") for connections in (4, 16, 64, 256)),
)
"""JSON answers whole. Streams of 32 tokens: `burst` back to back, `paced` one every 10 ms."""
