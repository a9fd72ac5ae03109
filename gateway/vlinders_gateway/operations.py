"""What clients can do: read off the contracts, so that a new RPC needs no change here."""

import functools
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from vlinders.api.v1 import options_pb2 as api

_PLACE = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/\S*)")


@dataclass(frozen=True)
class Operation:
    """One RPC that clients may reach over HTTP."""

    name: str
    """Of the RPC; no two operations share one."""

    path: str
    """gRPC's: `/vlinders.auth.v1.ApiKeyService/CreateApiKey`."""

    domain: str
    """The part that serves it, as `vlinders.auth`: whose channel and audience it needs."""

    service: str
    """Of the RPC, as `ApiKeyService`."""

    place: str
    """Verb and path in the canonical API: `DELETE /v1/api-keys/{api_key_id}`."""

    success: int
    """HTTP status of success."""

    piped: bool
    """The body travels as bytes over the pipe; `streams` serves it."""

    policy: api.Policy
    descriptor: MethodDescriptor
    request: type[Message]
    response: type[Message]

    items: FieldDescriptor | None
    """The repeated field of the response, for a list that comes in pages."""

    sorts: tuple[str, ...]
    """Of a list: the fields that it can be sorted by."""

    redirect: str
    """The field of the response that says where the client is sent; empty: it is not."""

    cookie: str
    """The field that travels as a cookie, in the response or in the request; empty: none does."""

    @property
    def row(self) -> Descriptor:
        """The message that the answer is, or that its list is made of."""
        listed: Any = self.items.message_type if self.items is not None else None
        kind: Any = listed or self.response.DESCRIPTOR
        found: Descriptor = kind
        return found

    @property
    def writes(self) -> bool:
        """Whether a client sends a body with it."""
        return not self.place.startswith(("GET ", "DELETE "))

    @property
    def public(self) -> bool:
        return self.policy.access == api.ACCESS_PUBLIC


def contracts() -> FileDescriptorSet:
    """The compiled contracts, comments included."""
    compiled = Path(api.__file__).parents[3] / "vlinders.binpb"
    return FileDescriptorSet.FromString(compiled.read_bytes())


@functools.cache
def operations() -> tuple[Operation, ...]:
    """Every operation whose contract also says who may call it; one that does not is not served."""
    found = sorted(_walk(), key=lambda operation: operation.name)
    if len({operation.name for operation in found}) != len(found):
        raise ValueError("two operations have one name")
    return tuple(found)


def named(name: str) -> Operation:
    """The operation of that name; KeyError where there is none."""
    for operation in operations():
        if operation.name == name:
            return operation
    raise KeyError(name)


def _walk() -> Iterator[Operation]:
    for file in contracts().file:
        if not file.name.startswith("vlinders/"):
            continue
        importlib.import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
        for service in file.service:
            full_name = f"{file.package}.{service.name}"
            for method in descriptor_pool.Default().FindServiceByName(full_name).methods:
                options: Any = method.GetOptions()
                if options.HasExtension(api.operation) and options.HasExtension(api.policy):
                    yield _operation(method, options.Extensions[api.operation])


def _operation(method: MethodDescriptor, edge: api.Operation) -> Operation:
    if _PLACE.fullmatch(edge.http) is None:
        raise ValueError(f"{method.full_name}: {edge.http!r} is no verb and path")
    service, options = method.containing_service, cast(Any, method.GetOptions())
    return Operation(
        name=method.name,
        path=f"/{service.full_name}/{method.name}",
        domain=service.file.package.rpartition(".")[0],
        service=service.name,
        place=edge.http,
        success=edge.success or 200,
        piped=edge.piped,
        policy=options.Extensions[api.policy],
        descriptor=method,
        request=GetMessageClass(method.input_type),
        response=GetMessageClass(method.output_type),
        items=_items(method),
        sorts=tuple(edge.sorts),
        redirect=edge.redirect,
        cookie=edge.cookie,
    )


def _items(method: MethodDescriptor) -> FieldDescriptor | None:
    page = api.Page.DESCRIPTOR
    if not any(field.message_type is page for field in method.input_type.fields):
        return None
    return next(field for field in method.output_type.fields if field.is_repeated)
