"""Where each dialect stands: which of them an address belongs to, by its path and by its host."""

from collections.abc import Iterable, Mapping

from vlinders_gateway.dialects import CANONICAL, DIALECTS, Dialect
from vlinders_gateway.exchange import Header

NOBODYS = ("/api/v1",)
"""Of the root: three systems have it with different shapes, so that it is none of theirs."""

EVERYWHERE = frozenset(("/healthz", "/readyz"))
"""Paths that are the same under every host."""

_PREFIXES = sorted(
    [
        *((mount, mount, dialect) for dialect in DIALECTS for mount in dialect.mounts if mount),
        *((root, "", dialect) for dialect in DIALECTS for root in dialect.root),
        *((root, "", CANONICAL) for root in NOBODYS),
    ],
    key=lambda row: -len(row[0]),
)


def at(path: str) -> tuple[Dialect, str]:
    """The dialect that answers at `path`, and what of the path stands before its own."""
    for prefix, mount, dialect in _PREFIXES:
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
            return dialect, mount
    return CANONICAL, ""


class Hosts:
    """Host names under which the paths of one dialect stand at the root."""

    def __init__(self, names: Mapping[str, str]) -> None:
        known = {dialect.name: dialect for dialect in DIALECTS}
        self._mounts = {
            host.lower().encode(): known[dialect].mounts[0] for host, dialect in names.items()
        }

    def mount(self, headers: Iterable[Header]) -> str:
        """The mount that a request's Host stands for; empty for a host that stands for none."""
        host = next((value for name, value in headers if name == b"host"), b"")
        return self._mounts.get(host.partition(b":")[0].lower(), "")
