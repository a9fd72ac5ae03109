"""What a dialect is: the tables by which one set of clients spells the operations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from vlinders_gateway.codec import Codec
from vlinders_gateway.dialects.paging import Numbers, Paging, Shown
from vlinders_gateway.dialects.shapes import Shape
from vlinders_gateway.failures import Refusal
from vlinders_gateway.operations import Operation, named, operations
from vlinders_gateway.rules import limits_of
from vlinders_kit.errors import Violation
from vlinders_kit.policies import method_of

Json = Any


@dataclass(frozen=True)
class Meta:
    """What an envelope says of the answer itself."""

    request_id: str
    timestamp: str
    operation: str = ""
    """Of which it is the answer."""


@dataclass(frozen=True)
class Join:
    """What another service knows of the things in an answer: asked once, for all of them.

    The RPC takes ids in its one field, and answers rows that each have the id that they are of; of
    what has none, the row is an empty one.
    """

    rpc: str
    """gRPC's: `/vlinders.billing.v1.LedgerService/GetWallets`."""

    by: str
    """The field that has the id, here and there."""

    name: str
    """What shapes find the row under."""

    @property
    def rows(self) -> FieldDescriptor:
        """The field of the RPC's answer that has the rows."""
        method: Any = method_of(self.rpc)
        found: FieldDescriptor = next(row for row in method.output_type.fields if row.is_repeated)
        return found


@dataclass(frozen=True)
class Besides:
    """What a request may ask of another operation besides its own, which comes first.

    It is asked where the body has one of the other's fields. All are checked beforehand, and both
    operations are open to the same callers.
    """

    operation: str
    by: str
    """The field of the answer that tells the other operation of whom, under the same name."""


@dataclass(frozen=True)
class Dialect:
    """How the clients of one API ask and are told. A value: nothing here knows a transport.

    Tables of operations are keyed by their names.
    """

    name: str
    title: str
    mounts: tuple[str, ...]
    """What stands before its paths; the first one is its own, the root (empty) an alias."""

    success: Callable[[Json, Meta], Json]
    """The envelope of an answer."""

    listed: Callable[[list[Json], Shown, Meta], Json]
    """The envelope of a page of a list."""

    failure: Callable[[Refusal, Meta], tuple[int, Json]]
    """HTTP status and envelope of a failure; violations come in this dialect's names and words."""

    event: Callable[[Refusal], Json]
    """What ends a stream that failed after its first frame."""

    root: tuple[str, ...] = ()
    """With an alias at the root: what of it is this dialect's, as `/api`."""

    codec: Codec = field(default_factory=Codec)
    paging: Paging = field(default_factory=Numbers)
    filters: Callable[[str], str | None] = lambda word: None
    """The field that a query parameter filters by; None for a parameter that filters nothing."""

    filter_word: Callable[[str], str] = str
    """The query parameter that filters by a field."""

    words: Callable[[Violation, Mapping[str, Json]], str] = lambda broken, limits: broken.message
    """What is said of a field, still by the contract's name, that breaks a rule.

    With what the rules allow, as JSON schema has it, and the facts of the failure.
    """

    described_at: tuple[str, ...] = ("/openapi.json",)
    """Where its OpenAPI document stands."""

    schemas: Mapping[str, str] = field(default_factory=dict)
    """Message → its name in the OpenAPI document, where that is another."""

    bare: frozenset[str] = frozenset()
    """Operations whose answers have no envelope."""

    empty: Json = field(default_factory=dict)
    """The answer of an operation that has nothing to tell."""

    routes: Mapping[str, str] | None = None
    """Operation → verb and path; None: each where its contract says."""

    without: Mapping[str, str] = field(default_factory=dict)
    """Operations that its clients never had, or whole services, each with the reason."""

    shapes: Mapping[str, Shape] = field(default_factory=dict)
    """Operation, or message that answers and lists are made of → the shape that it has here."""

    joins: Mapping[str, tuple[Join, ...]] = field(default_factory=dict)
    """Operation → what else its answer, or each item of its list, shows."""

    besides: Mapping[str, Besides] = field(default_factory=dict)
    """Operation → what else its request may ask for."""

    credentials: Mapping[str, str] = field(default_factory=dict)
    """Operation → the field of its request that the bearer token of the request goes into."""

    def places(self) -> list[tuple[Operation, str, str]]:
        """Each operation that it has, with its verb and path."""
        found = []
        for operation in operations():
            place = operation.place if self.routes is None else self.routes.get(operation.name)
            if place is not None and not self.lacks(operation):
                verb, path = place.split(" ")
                found.append((operation, verb, path))
        return found

    def elsewhere(self, operation: Operation) -> frozenset[str]:
        """Fields of its request that travel neither in the body nor in the query or path."""
        return frozenset(("page", operation.cookie, self.credentials.get(operation.name, "")))

    def sorts(self, operation: Operation) -> Mapping[str, str]:
        """What its list can be sorted by: the name here → the contract's."""
        fields = [operation.row.fields_by_name[name] for name in operation.sorts]
        return {self.codec.spelling(each): each.name for each in fields if self.codec.shown(each)}

    def permission(self, operation: Operation) -> str | None:
        """What its API keys must be allowed for an operation; None: no key of its may do it."""
        held = self.codec.values.get("permissions", {})
        scope = operation.policy.scope
        found: str | None = held.get(scope) or held.get(f"all:{scope.partition(':')[2]}")
        return found

    def lacks(self, operation: Operation) -> str | None:
        """Why its clients never had the operation, if they had not."""
        return self.without.get(operation.name) or self.without.get(operation.service)

    def told(self, operation: Operation, refusal: Refusal) -> tuple[Violation, ...]:
        """The violations of a request for `operation`, in this dialect's names and words."""
        return tuple(self._told(operation, row, refusal.facts) for row in refusal.violations)

    def _told(self, operation: Operation, broken: Violation, facts: Mapping[str, str]) -> Violation:
        own: Any = operation.request.DESCRIPTOR
        path, found = self.codec.at(own, broken.field)
        if found is None and operation.name in self.besides:
            other: Any = named(self.besides[operation.name].operation).request.DESCRIPTOR
            path, found = self.codec.at(other, broken.field)
        if found is None and broken.field == "sort":
            path = self.paging.sort
        limits = {**facts, **(limits_of(found) if found is not None else {})}
        return replace(broken, field=path, message=self.words(broken, limits))

    def shape(self, operation: Operation) -> Shape | None:
        """The shape of its answer, or of the items of its list; None: as the contract has it."""
        return self.shapes.get(operation.name) or self.shapes.get(operation.row.name)
