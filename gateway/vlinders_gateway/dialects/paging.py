"""The ways in which clients ask for a page of a list, and are told which one they got."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vlinders.api.v1.options_pb2 import Page, PageInfo
from vlinders_kit.errors import InvalidRequest, Violation

_NUMBER = re.compile(r"[0-9]{1,18}")
_ORDERS = ("asc", "desc")
_FARTHEST = 1 << 62
"""Items that a database can be asked to pass over; no list is longer."""


@dataclass(frozen=True)
class Shown:
    """Which page of a list an answer is, for clients that count pages."""

    page: int
    limit: int
    total: int

    @property
    def pages(self) -> int:
        return -(-self.total // self.limit)


class Paging(Protocol):
    """How the clients of a dialect ask for pages."""

    @property
    def sort(self) -> str:
        """The query parameter that names the field to sort by."""
        ...

    def schemas(self, sorts: Sequence[str]) -> Mapping[str, Any]:
        """The query parameters that it reads, each with its JSON schema.

        `sorts` are the fields to sort by, in the dialect's names.
        """
        ...

    def read(self, query: Mapping[str, str]) -> Page:
        """The page that `query` asks for; raises InvalidRequest for one that cannot be."""
        ...

    def shown(self, page: Page, info: PageInfo) -> Shown:
        """What the client is told of the page that it got."""
        ...


@dataclass(frozen=True)
class Numbers:
    """Pages are counted from 1; sizes out of range are refused, never cut to fit."""

    number: str = "page"
    size: str = "limit"
    sort: str = "sort"
    order: str = ""
    """The word that says `asc` or `desc`; without, a - before the field is descending."""

    usual: int = 20
    most: int = 100

    def schemas(self, sorts: Sequence[str]) -> Mapping[str, Any]:
        size = {"type": "integer", "minimum": 1, "maximum": self.most, "default": self.usual}
        found = {self.number: {"type": "integer", "minimum": 1, "default": 1}, self.size: size}
        if not sorts:
            return found
        ways = ("",) if self.order else ("", "-")
        sort = {"type": "string", "enum": [way + name for name in sorts for way in ways]}
        if self.order:
            return {**found, self.sort: sort, self.order: {"type": "string", "enum": [*_ORDERS]}}
        sort["description"] = "A field, or one with - before it, which is descending."
        return {**found, self.sort: sort}

    def read(self, query: Mapping[str, str]) -> Page:
        number = _count(query.get(self.number), 1)
        size = _count(query.get(self.size), self.usual)
        faults = []
        if number < 1:
            faults.append(
                Violation(self.number, "must be a whole number, at least 1", "page.number")
            )
        if not 1 <= size <= self.most:
            fault = f"must be a whole number from 1 to {self.most}"
            faults.append(Violation(self.size, fault, "page.size"))
        order = query.get(self.order, "asc") if self.order else "asc"
        sort = query.get(self.sort, "")
        if self.order and sort.startswith("-"):
            faults.append(Violation(self.sort, "is nothing that this list is sorted by", "sort"))
        if order not in _ORDERS:
            faults.append(Violation(self.order, f"must be one of {', '.join(_ORDERS)}", "in"))
        if faults:
            raise InvalidRequest(broken=tuple(faults))
        skip = min((number - 1) * size, _FARTHEST)
        sort = "-" + sort if sort and order == "desc" else sort
        return Page(size=size, skip=skip, with_total=True, sort=sort)

    def shown(self, page: Page, info: PageInfo) -> Shown:
        return Shown(page.skip // page.size + 1, page.size, info.total)


def _count(text: str | None, usual: int) -> int:
    """The number in `text`, 0 where there is none."""
    if text is None:
        return usual
    return int(text) if _NUMBER.fullmatch(text) else 0
