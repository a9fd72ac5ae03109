"""Notices: what a connection is told by NOTIFY, waited for without a look in between.

psycopg's own `notifies` wakes ten times a second to see whether it is to end, which costs a part
that is idle more than all the rest.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from vlinders_kit.silence import READS


class Notices:
    """The notices of one connection, also those that come while it executes something."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._heard: list[psycopg.Notify] = []
        connection.add_notify_handler(self._hear)

    async def listen(self, *channels: str) -> None:
        for channel in channels:
            await self._connection.execute(SQL("LISTEN {}").format(Identifier(channel)))

    async def within(self, seconds: float | None) -> Sequence[psycopg.Notify]:
        """What has come since the call before; waits so long for the first, or as long as it takes.

        Raises psycopg.OperationalError when the connection is lost.
        """
        self._read()
        if not self._heard and seconds != 0:
            await self._wait(seconds)
        heard, self._heard = self._heard, []
        return heard

    async def _wait(self, seconds: float | None) -> None:
        loop, socket = asyncio.get_running_loop(), self._connection.fileno()
        waiter: asyncio.Future[None] = loop.create_future()
        lost = False

        def readable() -> None:
            nonlocal lost
            try:
                for _ in range(READS):
                    self._read()
            except psycopg.Error as error:
                lost = True
                loop.remove_reader(socket)  # at once: its number is soon another's
                if not waiter.done():
                    waiter.set_exception(error)
            else:
                if self._heard:
                    _resolve(waiter)

        loop.add_reader(socket, readable)
        end = None if seconds is None else loop.call_later(seconds, partial(_resolve, waiter))
        try:
            await waiter
        finally:
            if not lost:
                loop.remove_reader(socket)
            if end is not None:
                end.cancel()

    def _read(self) -> None:
        """Takes in what lies on the socket. What psycopg reads by itself, it tells to `_hear`."""
        pq = self._connection.pgconn
        pq.consume_input()
        while (notice := pq.notifies()) is not None:
            channel, payload = notice.relname.decode(), notice.extra.decode()
            self._heard.append(psycopg.Notify(channel, payload, notice.be_pid))

    def _hear(self, notice: psycopg.Notify) -> None:
        self._heard.append(notice)


def _resolve(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
