"""A COMMIT whose answer is lost: it is done, nobody was told, and asking again is harmless."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy.exc import DBAPIError

from vlinders_billing.leases import Return
from vlinders_billing.ledger import PROMOTIONS, Movement, wallet_of
from vlinders_kit.db import Database


@dataclass
class Deaf:
    """Stands before Postgres; when it is `armed`, it drops the answer to a COMMIT, and the line."""

    host: str
    port: int
    armed: bool = False
    lost: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection(self.host, self.port)
        committing = asyncio.Event()

        async def ask() -> None:
            while data := await reader.read(65_536):
                if self.armed and b"COMMIT\0" in data:
                    committing.set()
                server.write(data)
            server.close()

        asking = asyncio.create_task(ask())
        while data := await answers.read(65_536):
            if committing.is_set():
                self.armed = False
                self.lost += 1
                break
            writer.write(data)
        writer.close()
        await asking


@pytest.fixture
async def deaf(bank: Any) -> AsyncIterator[tuple[Any, Deaf]]:
    """The bank over a line that can lose answers."""
    url = urlsplit(bank.db.url)
    line = Deaf(url.hostname or "", url.port or 0)
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    far = Database(url._replace(netloc=url.netloc.replace(str(url.port), str(port))).geturl())
    yield replace(bank, db=far), line
    await far.close()
    server.close()
    await server.wait_closed()


Operation = Callable[[Any], Awaitable[Any]]
GIFT = Movement("gift_1", "gift", PROMOTIONS, wallet_of("ten_1"), 5)
OPERATIONS: dict[str, Operation] = {
    "a transfer": lambda bank: bank.post(GIFT),
    "a lease": lambda bank: bank.lend("ten_1", 10, 60, id="new"),
    "a return": lambda bank: bank.give_back(Return("r", "l", 10, closes=False)),
    "usage": lambda bank: bank.record(bank.usage("ten_1", "l", 30, request_id="req_1")),
    "a price": lambda bank: bank.price("m", 1, 2, 3),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
async def test_what_is_asked_again_after_a_lost_answer_has_one_effect(
    bank: Any, deaf: tuple[Any, Deaf], operation: Operation
) -> None:
    await bank.fund("ten_1", 100)
    await bank.lend("ten_1", 40, id="l")
    far, line = deaf
    await far.audit()  # the line works
    line.armed = True

    with pytest.raises(DBAPIError):
        await operation(far)
    done = (await bank.audit()).digest, (await bank.wallet("ten_1")).available_nanos
    await operation(far)

    assert line.lost == 1
    assert ((await bank.audit()).digest, (await bank.wallet("ten_1")).available_nanos) == done
    assert (await bank.audit()).findings == []


async def test_the_effect_was_there_when_the_answer_was_lost(
    bank: Any, deaf: tuple[Any, Deaf]
) -> None:
    await bank.fund("ten_1", 100)
    far, line = deaf
    line.armed = True

    with pytest.raises(DBAPIError):
        await far.post(GIFT)

    assert (await bank.wallet("ten_1")).balance_nanos == 105
