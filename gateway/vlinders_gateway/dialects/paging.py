"""The ways in which clients ask for a page of a list, and are told which one they got."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vlinders.api.v1.options_pb2 import Page, PageInfo
from vlinders_kit.errors import InvalidRequest, Violation

_NUMBER = re.compile(r"[0-9]{1,18}")
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

    def schemas(self) -> Mapping[str, Any]:
        """The query parameters that it reads, each with its JSON schema."""
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
    usual: int = 20
    most: int = 100

    def schemas(self) -> Mapping[str, Any]:
        size = {"type": "integer", "minimum": 1, "maximum": self.most, "default": self.usual}
        sort = {"type": "string", "description": "A field, or with - before it, descending."}
        return {
            self.number: {"type": "integer", "minimum": 1, "default": 1},
            self.size: size,
            self.sort: sort,
        }

    def read(self, query: Mapping[str, str]) -> Page:
        number = _count(query.get(self.number), 1)
        size = _count(query.get(self.size), self.usual)
        faults = []
        if number < 1:
            faults.append(Violation(self.number, "must be a whole number, at least 1"))
        if not 1 <= size <= self.most:
            faults.append(Violation(self.size, f"must be a whole number from 1 to {self.most}"))
        if faults:
            raise InvalidRequest(broken=tuple(faults))
        skip = min((number - 1) * size, _FARTHEST)
        return Page(size=size, skip=skip, with_total=True, sort=query.get(self.sort, ""))

    def shown(self, page: Page, info: PageInfo) -> Shown:
        return Shown(page.skip // page.size + 1, page.size, info.total)


def _count(text: str | None, usual: int) -> int:
    """The number in `text`, 0 where there is none."""
    if text is None:
        return usual
    return int(text) if _NUMBER.fullmatch(text) else 0
