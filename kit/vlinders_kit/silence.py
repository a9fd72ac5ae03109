"""Silence: a database that takes what it is sent and does not answer, found out in two seconds.

The kernel of a frozen server acknowledges for it, so no deadline of TCP ends a wait, and those of
statements run on the server itself. A long statement looks the same; only another question tells.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import psycopg

from vlinders_kit.outages import Outage

DOUBT_SECONDS = 0.25
"""How long a unit of work takes before the server is asked whether it is there."""

ANSWER_SLICES = 12
SLICE_SECONDS = 0.1
"""How long it may take to answer that. In slices, of which a stall of our own uses up one only."""

READS = 2
"""Of a socket that can be read, by who reads it himself. A kill of the server resets it right after
the last words: uvloop tells of such a socket once, and libpq reads either the words or the reset.
"""

Connection = psycopg.AsyncConnection[Any]


class DatabaseSilent(psycopg.OperationalError):
    """The database has not answered for a while."""


class Watch:
    """Watches over what waits for one server; `connect` opens a connection that is not watched.

    When the server is silent, every watched connection is severed: whoever waits on it gets the
    error of a lost connection. Until it answers again, `require` raises at once.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._watched: WeakSet[Connection] = WeakSet()
        self._opening: set[asyncio.Timeout] = set()
        self._waiting: dict[object, float] = {}
        self._silent = False
        self._task: asyncio.Task[None] | None = None
        self._spare: Connection | None = None

    def require(self) -> None:
        """Raises DatabaseSilent as long as the server does not answer."""
        if self._silent:
            raise DatabaseSilent("the database does not answer")

    async def open(self, opening: Awaitable[Connection]) -> Connection:
        """The connection, watched from now on. Raises DatabaseSilent."""
        try:
            async with asyncio.timeout(None) as limit:
                self._opening.add(limit)
                try:
                    connection = await opening
                finally:
                    self._opening.discard(limit)
        except TimeoutError:
            raise DatabaseSilent("the database did not answer") from None
        self._watched.add(connection)
        return connection

    @contextmanager
    def over(self) -> Iterator[None]:
        """Watches for as long as the block lasts: all of it waits for the server."""
        loop = asyncio.get_running_loop()
        work = object()
        self._waiting[work] = loop.time()
        doubt = loop.call_later(DOUBT_SECONDS, self._doubt)
        try:
            yield
        finally:
            doubt.cancel()
            del self._waiting[work]

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._part()

    def _doubt(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._look())
            self._task.add_done_callback(self._looked)

    def _looked(self, task: "asyncio.Task[None]") -> None:
        self._task = None
        if not task.cancelled():
            task.result()

    async def _look(self) -> None:
        """Asks for as long as something waits long, and, in a silence, until there is an answer."""
        outage = Outage("database", longest=1.0)
        while self._silent or self._waits_long():
            if await self._answers():
                self._silent = False
                outage.over()
                await asyncio.sleep(DOUBT_SECONDS)
            else:
                self._silent = True
                self._sever()
                await outage.wait(DatabaseSilent("no answer"))

    def _waits_long(self) -> bool:
        now = asyncio.get_running_loop().time()
        return any(now - since >= DOUBT_SECONDS for since in self._waiting.values())

    async def _answers(self) -> bool:
        """Whether the server says anything in time, be it a refusal."""
        asking = asyncio.create_task(self._ask())
        try:
            for _ in range(ANSWER_SLICES):
                done, _ = await asyncio.wait([asking], timeout=SLICE_SECONDS)
                if done:
                    return True
            return False
        finally:
            if not asking.done():
                await self._give_up(asking)

    async def _give_up(self, asking: "asyncio.Task[None]") -> None:
        if self._spare is None:
            asking.cancel()  # it is connecting
        else:
            sever(self._spare)
        await asyncio.gather(asking, return_exceptions=True)
        await self._part()

    async def _ask(self) -> None:
        try:
            if self._spare is None:
                self._spare = await self._connect()
            await self._spare.execute("SELECT 1")
        except psycopg.Error:  # whoever waits is told by his own connection
            await self._part()

    async def _part(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            await spare.close()

    def _sever(self) -> None:
        for connection in self._watched:
            sever(connection)
        now = asyncio.get_running_loop().time()
        for limit in self._opening:
            limit.reschedule(now)


@contextmanager
def limited(connection: Connection, seconds: float) -> Iterator[None]:
    """Severs the connection if the block, which waits for its server, takes longer than that."""
    end = asyncio.get_running_loop().call_later(seconds, sever, connection)
    try:
        yield
    finally:
        end.cancel()


def sever(connection: Connection) -> None:
    """Ends the connection without a word to the server; who waits on it gets an OperationalError.

    To cancel him instead would not do: psycopg then asks the server to end the statement, and
    waits for that.
    """
    with (
        contextlib.suppress(psycopg.Error, OSError),
        socket.socket(fileno=os.dup(connection.fileno())) as own,
    ):
        own.shutdown(socket.SHUT_RDWR)
