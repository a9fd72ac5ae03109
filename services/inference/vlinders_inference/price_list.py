"""Keeping the prices of the catalogue those that billing has in force."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from vlinders.billing.v1.events_pb2 import PriceChanged
from vlinders.billing.v1.prices_pb2 import Price
from vlinders_inference.catalogue import Catalogue
from vlinders_inference.errors import CreditUnavailable
from vlinders_kit.outages import Outage

REFRESH_SECONDS = 60.0
"""How often prices are read again without being told that one has changed."""

_CHANGED = PriceChanged.DESCRIPTOR.full_name


class Keeper(Protocol):
    """Billing, as far as it keeps prices. Both raise CreditUnavailable."""

    async def put_prices(self, wanted: Sequence[Price]) -> None: ...

    async def list_prices(self) -> Sequence[Price]: ...


class PriceList:
    """Puts the configured prices in force, then follows what billing says."""

    def __init__(self, keeper: Keeper, catalogue: Catalogue, configured: Sequence[Price]) -> None:
        self._keeper = keeper
        self._catalogue = catalogue
        self._configured = configured
        self._put = not configured
        self._changed = asyncio.Event()
        self._away = Outage("billing (prices)", longest=2.0)

    def notice(self, type: str, body: bytes) -> None:
        """An event of the bus: a changed price is read at once."""
        if type == _CHANGED:
            self._changed.set()

    async def start(self, *, within: float) -> None:
        """Returns when prices are known, or after `within` seconds: until then nothing is sold."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._read()

    async def run(self) -> None:
        """Goes on until cancelled; prices that are known stay while billing is away."""
        while True:
            await self._read()
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self._changed.wait()

    async def _read(self) -> None:
        """Returns once the prices in force have been read, however long that takes."""
        while True:
            try:
                if not self._put:
                    await self._keeper.put_prices(self._configured)
                    self._put = True
                self._changed.clear()
                self._catalogue.set_prices(await self._keeper.list_prices())
            except CreditUnavailable as error:
                await self._away.wait(error)
                continue
            self._away.over()
            return
