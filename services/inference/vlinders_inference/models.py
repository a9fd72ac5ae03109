"""Tables of the inference service."""

from datetime import datetime

from sqlalchemy import ForeignKey, Integer, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from vlinders_kit import events
from vlinders_kit.db import TYPES


class Table(DeclarativeBase):
    type_annotation_map = TYPES


events.attach(Table.metadata)


class ModelRow(Table):
    """A model of the catalogue. One that the configuration does not name any more is inactive."""

    __tablename__ = "model"

    id: Mapped[str] = mapped_column(primary_key=True)
    owned_by: Mapped[str]
    worker_model: Mapped[str | None]
    """The name under which workers report it; null: no worker runs it."""
    context_length: Mapped[int]
    max_tokens: Mapped[int]
    embeddings: Mapped[bool]
    function_calling: Mapped[bool]
    active: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ProviderRow(Table):
    """An upstream that speaks OpenAI's protocol."""

    __tablename__ = "provider"

    name: Mapped[str] = mapped_column(primary_key=True)
    base_url: Mapped[str]
    always_stream: Mapped[bool]
    """It is asked to stream what its clients want whole, too."""
    active: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ProviderKeyRow(Table):
    """A provider's key, sealed for the purpose `provider:<name>`."""

    __tablename__ = "provider_key"

    provider: Mapped[str] = mapped_column(ForeignKey("provider.name"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    sealed: Mapped[bytes]


class OfferRow(Table):
    """A model that a provider serves."""

    __tablename__ = "offer"

    model: Mapped[str] = mapped_column(ForeignKey("model.id"), primary_key=True)
    provider: Mapped[str] = mapped_column(ForeignKey("provider.name"), primary_key=True)
    upstream: Mapped[str]
    """What the provider calls it."""
    limit_field: Mapped[str | None]
    """The provider's name for `max_tokens`; null: as the client writes it."""
    priority: Mapped[int] = mapped_column(Integer)
    """The smallest is tried first."""
