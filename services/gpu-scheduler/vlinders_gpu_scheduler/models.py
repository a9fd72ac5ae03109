"""Tables of the scheduler. Beats and loads are in none of them: rows are written on change."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from vlinders_kit import events
from vlinders_kit.db import TYPES


class Table(DeclarativeBase):
    type_annotation_map = TYPES


class Registration(Table):
    """The last registration of a worker, and the state that it came to in that epoch."""

    __tablename__ = "registration"
    __table_args__ = (
        CheckConstraint("state IN ('REGISTERING', 'ONLINE', 'SUSPECT', 'DRAINING', 'OFFLINE')"),
        Index("registration_living", "id", postgresql_where=text("state <> 'OFFLINE'")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    boot_id: Mapped[str]
    epoch: Mapped[int] = mapped_column(unique=True)
    address: Mapped[str]
    host_name: Mapped[str]
    agent_version: Mapped[str]
    inventory: Mapped[bytes]
    pretended: Mapped[bool]
    state: Mapped[str]
    state_since: Mapped[datetime]
    drained: Mapped[bool] = mapped_column(server_default=text("false"))
    registered_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Owner(Table):
    """Who may act for a resource, until when by the database's clock. Each taking is a new term."""

    __tablename__ = "owner"

    resource: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    term: Mapped[int]
    until: Mapped[datetime]


events.attach(Table.metadata)
