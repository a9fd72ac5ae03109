"""Providers: the ways to upstream services, in the order in which they are to be tried."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeVar
from urllib.parse import urlsplit

from vlinders_inference.breakers import Breaker
from vlinders_inference.catalogue import Model, Offer, ProviderKey
from vlinders_inference.connections import Target, head_of
from vlinders_inference.engines import PATHS, Attempt, Timeouts

T = TypeVar("T")


@dataclass(slots=True)
class _Way:
    """A key of a provider, for one model."""

    offer: Offer
    target: Target
    heads: dict[str, bytes] = field(repr=False)
    """Operation → head of its requests."""
    breaker: Breaker = field(default_factory=Breaker)

    def attempt(self, operation: str) -> Attempt:
        return Attempt(
            served_by=self.offer.provider,
            target=self.target,
            head=self.heads[operation],
            name=self.offer.upstream,
            limit_field=self.offer.limit_field,
            breaker=self.breaker,
            always_stream=self.offer.always_stream,
        )


class Providers:
    """All ways to all providers: a target for each provider, a breaker for each way."""

    def __init__(self, models: Iterable[Model], timeouts: Timeouts) -> None:
        self._targets: dict[str, Target] = {}
        self._ranks: dict[str, list[list[list[_Way]]]] = {}
        """Model → by priority → offers of that priority → their ways."""
        self._turns: dict[str, int] = {}
        for model in models:
            for offer in model.offers:
                if offer.provider not in self._targets:
                    target = Target(offer.base_url, connect_seconds=timeouts.connect)
                    self._targets[offer.provider] = target
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

    def close(self) -> None:
        for target in self._targets.values():
            target.close()

    def _way(self, offer: Offer, key: ProviderKey) -> _Way:
        headers = {"Accept-Encoding": "identity"}
        if key.secret is not None:
            headers["Authorization"] = f"Bearer {key.secret}"
        target, base = self._targets[offer.provider], urlsplit(offer.base_url).path
        heads = {
            operation: head_of(f"{base}/{path}", target.host_header, headers)
            for operation, path in PATHS.items()
        }
        return _Way(offer, target, heads)


def _turned(items: Sequence[T], turn: int) -> Sequence[T]:
    """The items, beginning with another one each turn."""
    if len(items) < 2:
        return items
    start = turn % len(items)
    return [*items[start:], *items[:start]]
