"""The codes of a dialect: by the reason of a failure, else by its HTTP status."""

from dataclasses import dataclass

from vlinders_gateway.failures import Refusal


@dataclass(frozen=True)
class Code:
    """One row of a dialect's table of codes."""

    name: str
    http: int
    message: str = ""
    """What clients are told; empty: the failure's own words."""

    becomes: tuple[int, ...] = ()
    """HTTP statuses that are told as this one."""

    keeps: tuple[int, ...] = ()
    """HTTP statuses that have this code and stay as they are."""

    reasons: tuple[str, ...] = ()
    """Reasons that have this code, whatever their status. Its own status alone then does not."""


@dataclass(frozen=True)
class Told:
    """A failure in a dialect's codes."""

    http: int
    code: str
    message: str


class Codes:
    """A table of codes. The last row is for all that no other is for, which keeps its status."""

    def __init__(self, *rows: Code) -> None:
        self.rows = rows
        self._by_reason = {reason: row for row in rows for reason in row.reasons}
        self._by_status: dict[int, Code] = {}
        for row in rows:
            own = () if row.reasons else (row.http,)
            self._by_status |= dict.fromkeys((*own, *row.becomes, *row.keeps), row)

    def of(self, refusal: Refusal) -> Told:
        """What clients are told of a failure."""
        row = self._by_reason.get(refusal.reason)
        if row is not None:
            return Told(row.http, row.name, row.message or refusal.message)
        row = self._by_status.get(refusal.http, self.rows[-1])
        http = row.http if refusal.http in row.becomes else refusal.http
        return Told(http, row.name, row.message or refusal.message)
