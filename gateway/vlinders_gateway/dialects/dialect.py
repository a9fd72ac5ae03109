"""What a dialect is: the tables by which one set of clients spells the operations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vlinders_gateway.codec import Codec
from vlinders_gateway.dialects.paging import Numbers, Paging, Shown
from vlinders_gateway.failures import Refusal
from vlinders_gateway.operations import Operation, operations

Json = Any


@dataclass(frozen=True)
class Meta:
    """What an envelope says of the answer itself."""

    request_id: str
    timestamp: str


@dataclass(frozen=True)
class Dialect:
    """How the clients of one API ask and are told. A value: nothing here knows a transport.

    Hooks are pure functions of a few lines, for the few places where shapes and not names differ.
    """

    name: str
    title: str
    mounts: tuple[str, ...]
    """Where its paths stand; the first one is canonical, the root (empty) an alias."""

    success: Callable[[Json, Meta], Json]
    """The envelope of an answer."""

    listed: Callable[[list[Json], Shown, Meta], Json]
    """The envelope of a page of a list."""

    failure: Callable[[Refusal, Meta], tuple[int, Json]]
    """HTTP status and envelope of a failure; violations come in this dialect's names."""

    event: Callable[[Refusal], Json]
    """What ends a stream that failed after its first frame."""

    codec: Codec = field(default_factory=Codec)
    paging: Paging = field(default_factory=Numbers)
    filters: Callable[[str], str | None] = lambda word: None
    """The field that a query parameter filters by; None for a parameter that filters nothing."""

    filter_word: Callable[[str], str] = str
    """The query parameter that filters by a field."""

    described_at: tuple[str, ...] = ("/openapi.json",)
    """Where its OpenAPI document stands, below each mount."""

    schemas: Mapping[str, str] = field(default_factory=dict)
    """Message → its name in the OpenAPI document, where that is another."""

    bare: frozenset[str] = frozenset()
    """Operations whose answers have no envelope."""

    routes: Mapping[str, str] | None = None
    """Operation → verb and path; None: each where its contract says."""

    without: Mapping[str, str] = field(default_factory=dict)
    """Operations that its clients never had, each with the reason."""

    asks: Mapping[str, Callable[[dict[str, Json]], dict[str, Json]]] = field(default_factory=dict)
    answers: Mapping[str, Callable[[Json], Json]] = field(default_factory=dict)

    def places(self) -> list[tuple[Operation, str, str]]:
        """Each operation that it has, with its verb and path."""
        found = []
        for operation in operations():
            place = operation.place if self.routes is None else self.routes.get(operation.name)
            if place is not None and operation.name not in self.without:
                verb, path = place.split(" ")
                found.append((operation, verb, path))
        return found
