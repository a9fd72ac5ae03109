"""How a request is read: body, query, path and head into the message of its operation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote

from google.protobuf.message import Message

from vlinders.api.v1.options_pb2 import Page
from vlinders_gateway import bodies, cookies
from vlinders_gateway.besides import Further
from vlinders_gateway.dialects import Dialect
from vlinders_gateway.exchange import AsgiExchange
from vlinders_gateway.operations import Operation
from vlinders_gateway.refusals import BodyMissing, InvalidCredential, MalformedRequest
from vlinders_gateway.rules import check
from vlinders_kit.errors import InvalidRequest, Violation
from vlinders_kit.policies import CredentialRequired

_MOST_PARAMETERS = 100


@dataclass(frozen=True)
class Asked:
    """What a request asks for."""

    request: Any
    page: Page | None
    """Of a list."""

    more: Message | None
    """Of another operation besides."""


class Reader:
    """Reads the requests for one operation of one dialect."""

    def __init__(self, dialect: Dialect, operation: Operation) -> None:
        self._dialect = dialect
        self._operation = operation
        self._credential = dialect.credentials.get(operation.name, "")
        aside = dialect.elsewhere(operation)
        self._sorts = dialect.sorts(operation)
        self._further = Further.of(dialect, operation)
        kind: Any = operation.request.DESCRIPTOR
        codec = dialect.codec
        self._fields = {
            codec.spelling(field): field
            for field in kind.fields
            if codec.shown(field) and field.name not in aside
        }

    async def read(self, exchange: AsgiExchange, path: Mapping[str, str]) -> Asked:
        """The request. Every fault of it is told at once.

        Raises InvalidRequest, BodyMissing, and where the bearer token is a field of it
        CredentialRequired and InvalidCredential.
        """
        operation, codec = self._operation, self._dialect.codec
        faults: list[Violation] = []
        request: Any = operation.request()
        self._read_head(exchange, request)
        sent = await exchange.body()  # of any request: one whose body is malformed is none
        body = bodies.parse(sent) if operation.writes else {}
        query = {} if operation.writes else _query(exchange)
        texts = self._chosen(query, faults) | {name: unquote(text) for name, text in path.items()}
        for given, text in ((self._own(body), False), (texts, True)):
            request.MergeFrom(codec.load(operation.request, given, text=text, faults=faults))
        page = None
        if operation.items is not None:
            page = _faultless(faults, partial(self._page, query))
            request.page.CopyFrom(page or Page())
        check(request, faults)
        more = self._further.asked(body, faults) if self._further is not None else None
        if any(fault.field == self._credential for fault in faults):
            raise InvalidCredential
        if faults:
            raise InvalidRequest(broken=tuple(faults))
        if operation.writes and not sent.strip() and self._fields.keys() - path.keys():
            raise BodyMissing
        return Asked(request, page, more)

    def _read_head(self, exchange: AsgiExchange, request: Message) -> None:
        """What is not in the body, the query or the path."""
        if self._credential:
            setattr(request, self._credential, _bearer(exchange.authorization))
        cookie = self._operation.cookie
        if cookie in request.DESCRIPTOR.fields_by_name:
            setattr(request, cookie, cookies.read(exchange, cookie))

    def _own(self, body: dict[str, Any]) -> dict[str, Any]:
        """The fields that a body may have."""
        return {name: value for name, value in body.items() if name in self._fields}

    def _chosen(self, query: Mapping[str, str], faults: list[Violation]) -> dict[str, str]:
        """The fields that a query names, plainly or as a filter."""
        chosen = {}
        for word, value in query.items():
            name = self._dialect.filters(word)
            if name is not None and name not in self._fields:
                faults.append(Violation(word, "is nothing that this list is filtered by", "filter"))
            elif name is not None:
                chosen[name] = value
            elif word in self._fields:
                chosen.setdefault(word, value)
        return chosen

    def _page(self, query: Mapping[str, str]) -> Page:
        """The page, sorted by a field of the contract. Raises InvalidRequest."""
        dialect = self._dialect
        page = dialect.paging.read(query)
        if page.sort:
            found = self._sorts.get(page.sort.removeprefix("-"))
            if found is None:
                fault = "is nothing that this list is sorted by"
                raise InvalidRequest(broken=(Violation(dialect.paging.sort, fault, "sort"),))
            page.sort = "-" * page.sort.startswith("-") + found
        return page


def _bearer(authorization: bytes | None) -> str:
    scheme, _, token = (authorization or b"").partition(b" ")
    if scheme.lower() != b"bearer" or not token.isascii():
        raise CredentialRequired
    return token.decode("ascii")


def _faultless(faults: list[Violation], step: Callable[[], Any]) -> Any:
    """What `step` returns; where it finds faults, None, and they are among `faults`."""
    try:
        return step()
    except InvalidRequest as error:
        faults.extend(error.broken)
        return None


def _query(exchange: AsgiExchange) -> dict[str, str]:
    try:
        text = exchange.scope["query_string"].decode("ascii")
        pairs = parse_qsl(
            text, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS, errors="strict"
        )
    except ValueError:  # too many, or no UTF-8
        raise MalformedRequest(what="the query") from None
    return dict(pairs)
