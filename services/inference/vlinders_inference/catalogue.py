"""The catalogue: which models there are, who serves them, what they cost.

The configuration of the last start is what holds; it is kept in the database, where provider keys
are sealed, and served from memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from vlinders.billing.v1.prices_pb2 import Price as PriceMessage
from vlinders_inference.configuration import Configured
from vlinders_inference.errors import ModelNotFound, ModelNotPriced
from vlinders_inference.models import ModelRow, OfferRow, ProviderKeyRow, ProviderRow
from vlinders_inference.prices import Price
from vlinders_kit.db import Tx
from vlinders_kit.sealing import Sealer

_LOCK = 0x436174616C6F67
"""Advisory lock of who writes the catalogue: replicas start at the same time."""


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """One of a provider's keys, or its having none; the secret is in no `repr`."""

    position: int
    secret: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Offer:
    """A model as a provider serves it."""

    provider: str
    base_url: str
    upstream: str
    limit_field: str | None
    priority: int
    keys: tuple[ProviderKey, ...]
    always_stream: bool = False
    """It is asked to stream what clients want whole, too."""


@dataclass(frozen=True, slots=True)
class Model:
    id: str
    owned_by: str
    worker_model: str | None
    context_length: int
    max_tokens: int
    embeddings: bool
    function_calling: bool
    created_at: datetime
    offers: tuple[Offer, ...] = ()
    """By priority, the first to try first."""


class Catalogue:
    """The models in memory, with the prices in force."""

    def __init__(self, models: Sequence[Model]) -> None:
        self.models: Mapping[str, Model] = {
            model.id: model for model in sorted(models, key=lambda model: model.id)
        }
        self._prices: Mapping[str, Price] = {}

    def model(self, id: str) -> Model:
        """Raises ModelNotFound."""
        model = self.models.get(id)
        if model is None:
            raise ModelNotFound(model=id)
        return model

    def price(self, id: str) -> Price:
        """The price in force. Raises ModelNotPriced where none is known: nothing is given away."""
        price = self._prices.get(id)
        if price is None:
            raise ModelNotPriced(model=id)
        return price

    def set_prices(self, prices: Sequence[PriceMessage]) -> None:
        """Replaces all prices by those that billing says are in force."""
        self._prices = {
            price.model: Price(
                version=price.version,
                input=price.input_nanos,
                cached_input=price.cached_input_nanos,
                output=price.output_nanos,
            )
            for price in prices
        }


async def store(tx: Tx, configured: Configured, sealer: Sealer) -> None:
    """Makes the catalogue of the database what is configured. What is not any more is inactive."""
    await tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    await tx.execute(update(ModelRow).values(active=False))
    await tx.execute(update(ProviderRow).values(active=False))
    await tx.execute(delete(OfferRow))
    await tx.execute(delete(ProviderKeyRow))
    for id, traits in configured.traits().items():
        own = configured.models.get(id)
        values = {
            "owned_by": configured.owner(id),
            "worker_model": own.worker_model if own is not None else None,
            "context_length": traits.context_length,
            "max_tokens": 0 if traits.embeddings else traits.max_tokens,
            "embeddings": traits.embeddings,
            "function_calling": traits.function_calling,
            "active": True,
        }
        statement = insert(ModelRow).values(id=id, **values)
        await tx.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))
    for provider in configured.providers:
        where = {
            "base_url": provider.base_url,
            "always_stream": provider.always_stream,
            "active": True,
        }
        row = insert(ProviderRow).values(name=provider.name, **where)
        await tx.execute(row.on_conflict_do_update(index_elements=["name"], set_=where))
        purpose = _purpose(provider.name)
        for position, key in enumerate(configured.keys[provider.name]):
            sealed = sealer.seal(key.get_secret_value().encode(), purpose)
            tx.add(ProviderKeyRow(provider=provider.name, position=position, sealed=sealed))
        for id, offered in provider.models.items():
            tx.add(
                OfferRow(
                    model=id,
                    provider=provider.name,
                    upstream=offered.upstream or id,
                    limit_field=offered.limit_field,
                    priority=provider.priority if offered.priority is None else offered.priority,
                )
            )


async def load(tx: Tx, sealer: Sealer) -> Catalogue:
    """The active models with their offers. Raises NotSealedHere if a key cannot be opened."""
    keys: dict[str, list[ProviderKey]] = {}
    rows = select(ProviderKeyRow).order_by(ProviderKeyRow.provider, ProviderKeyRow.position)
    for row in await tx.scalars(rows):
        secret = sealer.open(row.sealed, _purpose(row.provider)).decode()
        keys.setdefault(row.provider, []).append(ProviderKey(row.position, secret))
    offers: dict[str, list[Offer]] = {}
    found = await tx.execute(
        select(OfferRow, ProviderRow.base_url, ProviderRow.always_stream)
        .join(ProviderRow, ProviderRow.name == OfferRow.provider)
        .where(ProviderRow.active)
        .order_by(OfferRow.priority, func.lower(OfferRow.provider))
    )
    for offer, base_url, always_stream in found:
        offers.setdefault(offer.model, []).append(
            Offer(
                provider=offer.provider,
                base_url=base_url,
                upstream=offer.upstream,
                limit_field=offer.limit_field,
                priority=offer.priority,
                keys=tuple(keys.get(offer.provider, [ProviderKey(0, None)])),
                always_stream=always_stream,
            )
        )
    models = await tx.scalars(select(ModelRow).where(ModelRow.active))
    return Catalogue([_model(row, offers.get(row.id, [])) for row in models])


def configured_prices(configured: Configured) -> list[PriceMessage]:
    """What billing is asked to put in force."""
    return [
        PriceMessage(
            model=id,
            input_nanos=traits.input_price,
            cached_input_nanos=(
                traits.input_price
                if traits.cached_input_price is None
                else traits.cached_input_price
            ),
            output_nanos=traits.output_price,
        )
        for id, traits in configured.traits().items()
    ]


def _model(row: ModelRow, offers: Sequence[Offer]) -> Model:
    return Model(
        id=row.id,
        owned_by=row.owned_by,
        worker_model=row.worker_model,
        context_length=row.context_length,
        max_tokens=row.max_tokens,
        embeddings=row.embeddings,
        function_calling=row.function_calling,
        created_at=row.created_at,
        offers=tuple(offers),
    )


def _purpose(provider: str) -> str:
    return f"provider:{provider}"
