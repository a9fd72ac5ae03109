"""The pipes to all replicas of a service, and which of them is asked."""

import asyncio
import operator
import socket
from collections.abc import Awaitable, Callable, Sequence

from vlinders.api.v1.pipe_pb2 import PipeOpen
from vlinders_kit import logs
from vlinders_kit.errors import Unavailable
from vlinders_kit.pipe.calls import Dialled
from vlinders_kit.pipe.client import PipeClient, PipeExchange, Receiver
from vlinders_kit.pipe.wire import Talker

_RESOLVE_SECONDS = 5.0
"""How often names are looked up again for replicas that came or went."""

_OUTSTANDING = operator.attrgetter("outstanding")

log = logs.get(__name__)


class NoReplica(Unavailable):
    """No replica of the service can be reached at the moment."""


class PipePool:
    """The pipes to all replicas of a service.

    `targets` are `host:port`; a name stands for all the addresses that it resolves to, looked up
    again every few seconds.
    """

    def __init__(
        self, targets: Sequence[str], dial: Callable[[str, Talker], Awaitable[Dialled]]
    ) -> None:
        self._targets = targets
        self._dial = dial
        self._clients: dict[str, tuple[PipeClient, asyncio.Task[None]]] = {}

    @property
    def ready(self) -> bool:
        return self.ready_count > 0

    @property
    def ready_count(self) -> int:
        """Replicas that take requests now."""
        return sum(client.ready for client, _ in self._clients.values())

    def open(
        self, request: PipeOpen, receiver: Receiver, *, but: PipeClient | None = None
    ) -> PipeExchange:
        """Opens `request` on the replica with the least to do; not on `but` if there is another.

        Raises NoReplica.
        """
        ready = [client for client, _ in self._clients.values() if client.ready]
        if not ready:
            raise NoReplica
        if len(ready) > 1:
            ready = [client for client in ready if client is not but]
            ready.sort(key=_OUTSTANDING)
        return ready[0].open(request, receiver)

    async def run(self) -> None:
        """Keeps the pipes to all replicas open, until cancelled."""
        try:
            while True:
                await self._refresh()
                await asyncio.sleep(_RESOLVE_SECONDS)
        finally:
            tasks = [task for _, task in self._clients.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _refresh(self) -> None:
        found: set[str] = set()
        for target in self._targets:
            found.update(await _addresses(target))
        if not found:
            return  # the name service is silent: what is connected goes on
        for address in found - self._clients.keys():
            self._start(address)
        for address, (_, task) in list(self._clients.items()):
            if task.done():
                log.error("pipe_broke", address=address, exc_info=task.exception())
                self._start(address)
        for address in self._clients.keys() - found:
            client, task = self._clients[address]
            if not client.ready and not client.outstanding:
                task.cancel()
                del self._clients[address]

    def _start(self, address: str) -> None:
        client = PipeClient(address, self._dial)
        task = asyncio.create_task(client.run(), name=f"pipe {address}")
        self._clients[address] = client, task


async def _addresses(target: str) -> list[str]:
    host, _, port = target.rpartition(":")
    try:
        rows = await asyncio.get_running_loop().getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM
        )
    except socket.gaierror as error:
        log.warning("name_not_resolved", target=target, error=str(error))
        return []
    found = [(str(row[4][0]), int(row[4][1])) for row in rows]
    return [f"[{ip}]:{number}" if ":" in ip else f"{ip}:{number}" for ip, number in found]
