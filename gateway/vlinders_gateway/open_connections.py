"""How many connections clients may have open: all of them together, and each address for itself."""

import resource
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from vlinders_gateway.limits import network_of

SPARE_FILES = 256
"""Descriptors that the process needs for itself."""


def most_of(wanted: int) -> int:
    """`wanted` connections, or as many as the process may have descriptors for.

    What the process may have without asking anybody, it takes: the soft limit is often 1024.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard - SPARE_FILES)


class OpenConnections:
    """Counts connections, and says for each new one whether it is within the bounds.

    Addresses of `exempt` networks, proxies that is, stand for many clients and are bounded only by
    `most`. 0 is no bound of an address. Every `enter` is followed by one `leave`.
    """

    def __init__(self, most: int, per_address: int, exempt: Sequence[str] = ()) -> None:
        self.count = 0
        self._most = most
        self._per_address = per_address
        self._exempt = [ip_network(network) for network in exempt]
        self._by_address: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Counts one more of `address`; False where that is one too many."""
        self.count += 1
        if not self._per_address or self._is_exempt(address):
            return self.count <= self._most
        network = network_of(address)
        self._by_address[network] += 1
        return self.count <= self._most and self._by_address[network] <= self._per_address

    def leave(self, address: str) -> None:
        self.count -= 1
        network = network_of(address)
        if self._by_address[network] <= 1:
            del self._by_address[network]
        else:
            self._by_address[network] -= 1

    def _is_exempt(self, address: str) -> bool:
        return any(ip_address(address) in network for network in self._exempt)
