"""The internal ports of a stack: free ones, kept in `VAR/ports.json` so that they stay the same."""

import json
import random
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from vlinders_embedded.files import write_private

_RANGE = range(20_000, 32_000)
"""Below those of outgoing connections, which could take one while a part is started again."""


class PortTaken(RuntimeError):
    """Somebody else listens on a port that was asked for."""


def ports_of(var: Path, names: Sequence[str], claims: ExitStack) -> dict[str, int]:
    """A port of 127.0.0.1 for each name: the one it had before, as long as nobody took it.

    Until `claims` close, no other stack on this machine chooses one of them, also while nothing
    listens there yet, or not at the moment.
    """
    file = var / "ports.json"
    known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    ports = {}
    with ExitStack() as probes:
        for name in names:
            wanted = known.get(name)
            if wanted is None or not (_free(wanted, probes) and _claimed(wanted, claims)):
                wanted = _choose(probes, claims)
            ports[name] = wanted
    write_private(file, json.dumps(known | ports, indent=2))
    return ports


def require_free(port: int) -> None:
    """Raises PortTaken where somebody listens on `port`, on this machine's own addresses."""
    with ExitStack() as probes:
        if not _free(port, probes):
            raise PortTaken(
                f"port {port} is taken: end what listens there, or choose another with PORT=…"
            )


def _choose(probes: ExitStack, claims: ExitStack) -> int:
    for port in random.sample(_RANGE, 500):
        if _free(port, probes) and _claimed(port, claims):
            return port
    raise PortTaken(f"no free port found in {_RANGE}")


def _free(port: int, probes: ExitStack) -> bool:
    """Whether nobody has it. It stays taken until `probes` close, so no two names get one port."""
    probe = probes.enter_context(socket.socket())
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _claimed(port: int, claims: ExitStack) -> bool:
    """Whether the port is ours now: a name in the kernel that nobody else can have meanwhile."""
    claim = claims.enter_context(socket.socket(socket.AF_UNIX))
    try:
        claim.bind(f"\0vlinders-port-{port}")
    except OSError:
        return False
    return True
