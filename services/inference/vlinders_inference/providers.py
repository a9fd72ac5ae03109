"""Providers: the ways to upstream services, in the order in which they are to be tried."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeVar

import aiohttp
from multidict import CIMultiDict, istr
from yarl import URL

from vlinders_inference.breakers import Breaker
from vlinders_inference.catalogue import Model, Offer, ProviderKey
from vlinders_inference.engines import PATHS, Attempt, Timeouts, session

T = TypeVar("T")


@dataclass(slots=True)
class _Way:
    """A key of a provider, for one model."""

    offer: Offer
    session: aiohttp.ClientSession
    headers: CIMultiDict[str] = field(repr=False)
    urls: dict[str, URL]
    breaker: Breaker = field(default_factory=Breaker)

    def attempt(self, operation: str) -> Attempt:
        return Attempt(
            served_by=self.offer.provider,
            session=self.session,
            url=self.urls[operation],
            headers=self.headers,
            name=self.offer.upstream,
            limit_field=self.offer.limit_field,
            breaker=self.breaker,
        )


class Providers:
    """All ways to all providers; a session for each provider, a breaker for each way."""

    def __init__(self, models: Iterable[Model], timeouts: Timeouts) -> None:
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._ranks: dict[str, list[list[list[_Way]]]] = {}
        """Model → by priority → offers of that priority → their ways."""
        self._turns: dict[str, int] = {}
        for model in models:
            for offer in model.offers:
                if offer.provider not in self._sessions:
                    self._sessions[offer.provider] = session(timeouts)
            ranks = groupby(model.offers, key=lambda offer: offer.priority)
            self._ranks[model.id] = [
                [[self._way(offer, key) for key in offer.keys] for offer in rank]
                for _, rank in ranks
            ]

    def attempts(self, model: Model, operation: str) -> Iterator[Attempt]:
        """Ways that may be tried now, the first to try first.

        Offers of one priority take turns, and so do the keys of each. When an attempt turns out
        `spoilt`, the provider's other keys are passed over.
        """
        ranks = self._ranks.get(model.id)
        if not ranks:
            return
        turn = self._turns[model.id] = self._turns.get(model.id, -1) + 1
        for rank in ranks:
            for ways in _turned(rank, turn):
                for way in _turned(ways, turn // len(rank)):
                    if way.breaker.lets_pass(time.monotonic()):
                        attempt = way.attempt(operation)
                        yield attempt
                        if attempt.spoilt:
                            break

    async def close(self) -> None:
        for each in self._sessions.values():
            await each.close()

    def _way(self, offer: Offer, key: ProviderKey) -> _Way:
        headers = CIMultiDict({istr("Content-Type"): "application/json"})
        headers[istr("Accept-Encoding")] = "identity"
        if key.secret is not None:
            headers[istr("Authorization")] = f"Bearer {key.secret}"
        urls = {operation: URL(f"{offer.base_url}/{path}") for operation, path in PATHS.items()}
        return _Way(offer, self._sessions[offer.provider], headers, urls)


def _turned(items: Sequence[T], turn: int) -> Sequence[T]:
    """The items, beginning with another one each turn."""
    if len(items) < 2:
        return items
    start = turn % len(items)
    return [*items[start:], *items[:start]]
