"""Statements: prepared once on a connection of their own, for what a part writes all the time.

psycopg's own `execute` costs some 250 µs of CPU: it composes the query, walks through generators,
and adds the socket to the event loop and takes it out again, twice. Here the socket stays in the
loop and the parameters are bytes already, which costs a fifth of that.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Self

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from vlinders_kit.alarms import Alarm
from vlinders_kit.postgres import connect
from vlinders_kit.silence import READS, DatabaseSilent, limited, sever

_DONE = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


class Statements:
    """`await Statements.prepare(url, "usage", "(uuid) AS INSERT INTO t VALUES ($1)")`.

    One runs at a time, in a transaction of its own, and takes `within` seconds at most. After an
    error, or a cancelled wait, the connection is of no more use: close it and prepare another.
    """

    def __init__(self, connection: psycopg.AsyncConnection[tuple[Any, ...]], within: float) -> None:
        self._connection = connection
        self._within = within
        self._pq = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._socket = connection.fileno()
        self._waiter: asyncio.Future[None] | None = None
        self._refusal: psycopg.Error | None = None
        """What Postgres said of the statement that runs."""
        self._lost: psycopg.Error | None = None
        self._until = math.inf
        """When the statement that runs has taken too long."""
        self._limit = Alarm(self._end_late)
        self._loop.add_reader(self._socket, self._readable)

    @classmethod
    async def prepare(
        cls, url: str, application_name: str, *statements: str, within: float
    ) -> Self:
        """Each statement is the end of a PREPARE: its parameters' types, and AS with what it does.

        Raises psycopg.Error.
        """
        connection = await connect(url, application_name)
        try:
            with limited(connection, within):
                for number, statement in enumerate(statements):
                    await connection.execute(f"PREPARE s{number} {statement}")
        except BaseException:
            await connection.close()
            raise
        return cls(connection, within)

    async def execute(self, number: int, values: Sequence[bytes]) -> None:
        """Runs the statement of that number; `values` are in Postgres' binary form.

        Returns when it is committed. Raises psycopg.Error; then nobody knows whether it was.
        """
        if self._waiter is not None:
            raise AssertionError("one statement at a time")
        if self._lost is not None:
            raise self._lost
        binary = (pq.Format.BINARY,) * len(values)
        self._pq.send_query_prepared(b"s%d" % number, values, param_formats=binary)
        self._refusal = None
        self._waiter = self._loop.create_future()
        self._until = self._loop.time() + self._within
        self._limit.by(self._until)
        self._flush()
        try:
            await self._waiter
        finally:
            self._until = math.inf
            self._waiter = None

    async def close(self) -> None:
        self._limit.off()
        self._let_go()
        await self._connection.close()

    def _end_late(self, now: float) -> float:
        if self._until > now:
            return self._until
        sever(self._connection)
        self._lose(DatabaseSilent("the database did not answer"))
        return math.inf

    def _flush(self) -> None:
        """Sends what libpq holds; what the socket does not take goes when it can."""
        try:
            left = self._pq.flush()
        except psycopg.OperationalError as error:
            self._lose(error)
            return
        if left:
            self._loop.add_writer(self._socket, self._flush_rest)

    def _flush_rest(self) -> None:
        self._loop.remove_writer(self._socket)
        self._flush()

    def _readable(self) -> None:
        for _ in range(READS):
            try:
                self._pq.consume_input()
            except psycopg.OperationalError as error:
                self._lose(error)
                return
            self._take_results()

    def _take_results(self) -> None:
        while not self._pq.is_busy():
            result = self._pq.get_result()
            if result is None:
                self._tell(self._refusal)
                return
            if result.status not in _DONE:
                self._refusal = error_from_result(result)

    def _lose(self, error: psycopg.Error) -> None:
        """The connection is gone, and its socket would be readable for ever."""
        self._let_go()
        self._lost = error
        self._tell(error)

    def _let_go(self) -> None:
        """Once only: of a connection that is lost, the number of the socket is soon another's."""
        if self._lost is None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)

    def _tell(self, failure: psycopg.Error | None) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(failure)
