"""Price versions: what each model costs, now and at any time before."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, text

from vlinders.billing.v1.events_pb2 import PriceChanged
from vlinders_billing.models import PriceVersion
from vlinders_billing.prices import Price
from vlinders_kit.db import Tx
from vlinders_kit.errors import invalid
from vlinders_kit.events import publish
from vlinders_kit.ids import new_id

_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('vlinders.billing.prices'))")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The price that a model shall have."""

    model: str
    price: Price


async def in_force(tx: Tx) -> Sequence[PriceVersion]:
    """The price in force of every model, by model."""
    latest = (
        select(PriceVersion)
        .distinct(PriceVersion.model)
        # Not now(): that stood still while the transaction waited for a lock.
        .where(PriceVersion.starts_at <= func.clock_timestamp())
        .order_by(PriceVersion.model, PriceVersion.starts_at.desc())
    )
    return (await tx.scalars(latest)).all()


async def put(tx: Tx, prices: Sequence[Wanted]) -> list[PriceVersion]:
    """Has these prices in force from now on; answers their versions, in their order.

    A model whose price is what it was keeps its version. Raises InvalidRequest for a model that is
    there twice.
    """
    if len({wanted.model for wanted in prices}) != len(prices):
        raise invalid("prices", "must name each model once")
    await tx.execute(_LOCK)
    # Asked after the lock: of two that put the same price at once, the second finds the first's.
    current = {version.model: version for version in await in_force(tx)}
    now = await tx.scalar(select(func.clock_timestamp()))
    assert now is not None
    changed = []
    for wanted in prices:
        before = current.get(wanted.model)
        if before is not None and price_of(before) == wanted.price:
            continue
        current[wanted.model] = PriceVersion(
            version=new_id("price"),
            model=wanted.model,
            input_nanos=wanted.price.input_nanos,
            cached_input_nanos=wanted.price.cached_input_nanos,
            output_nanos=wanted.price.output_nanos,
            starts_at=now,
        )
        changed.append(current[wanted.model])
    tx.add_all(changed)
    await tx.flush()
    events = [PriceChanged(model=version.model, version=version.version) for version in changed]
    await publish(tx, *events)
    return [current[wanted.model] for wanted in prices]


async def of_versions(tx: Tx, versions: Iterable[str]) -> dict[str, Price]:
    """The prices of those of these versions that exist."""
    rows = await tx.scalars(select(PriceVersion).where(PriceVersion.version.in_(set(versions))))
    return {row.version: price_of(row) for row in rows}


def price_of(version: PriceVersion) -> Price:
    return Price(version.input_nanos, version.cached_input_nanos, version.output_nanos)
