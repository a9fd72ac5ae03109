"""Tables of the billing service. Amounts are nanos: billionths of the unit of the currency."""

from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from vlinders_kit import events
from vlinders_kit.db import TYPES


class Table(DeclarativeBase):
    type_annotation_map = TYPES


class Account(Table):
    """One account of the ledger: a tenant's wallet, or one of the platform's own.

    A wallet never holds or owes more than it has; the platform's accounts may stand below zero.
    """

    __tablename__ = "account"
    __table_args__ = (
        CheckConstraint("held_nanos >= 0"),
        CheckConstraint("tenant_id IS NULL OR balance_nanos >= held_nanos"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(unique=True)
    balance_nanos: Mapped[int] = mapped_column(server_default=text("0"))
    held_nanos: Mapped[int] = mapped_column(server_default=text("0"))
    postings: Mapped[int] = mapped_column(server_default=text("0"))
    head: Mapped[bytes] = mapped_column(server_default=text("'\\x'::bytea"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    @property
    def available_nanos(self) -> int:
        return self.balance_nanos - self.held_nanos


class Transfer(Table):
    """Money that went from one account to another. Added, never changed."""

    __tablename__ = "transfer"
    __table_args__ = (
        CheckConstraint("amount_nanos > 0"),
        CheckConstraint("source_id <> target_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    source_id: Mapped[str] = mapped_column(ForeignKey("account.id"))
    target_id: Mapped[str] = mapped_column(ForeignKey("account.id"))
    amount_nanos: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Posting(Table):
    """One side of a transfer: link `seq` of its account's chain. Added, never changed."""

    __tablename__ = "posting"
    __table_args__ = (UniqueConstraint("transfer_id", "account_id"),)

    account_id: Mapped[str] = mapped_column(ForeignKey("account.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    transfer_id: Mapped[str] = mapped_column(ForeignKey("transfer.id"))
    amount_nanos: Mapped[int]
    balance_nanos: Mapped[int]
    hash: Mapped[bytes]

    transfer: Mapped[Transfer] = relationship(lazy="joined", innerjoin=True)


class Lease(Table):
    """A pending transfer from a wallet to revenue, which its holder admits requests from.

    `granted` = `open` (still held) + `used` (settled by usage) + `returned` (back in the wallet).
    """

    __tablename__ = "lease"
    __table_args__ = (
        CheckConstraint("open_nanos >= 0 AND used_nanos >= 0 AND returned_nanos >= 0"),
        CheckConstraint("granted_nanos = open_nanos + used_nanos + returned_nanos"),
        CheckConstraint("over_at IS NULL OR open_nanos = 0"),
        Index("lease_open", "account_id", postgresql_where=text("over_at IS NULL")),
        Index("lease_expiring", "expires_at", postgresql_where=text("over_at IS NULL")),
        Index("lease_over", "over_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("account.id"))
    holder: Mapped[str]
    least_nanos: Mapped[int]
    wanted_nanos: Mapped[int]
    granted_nanos: Mapped[int]
    open_nanos: Mapped[int]
    used_nanos: Mapped[int] = mapped_column(server_default=text("0"))
    returned_nanos: Mapped[int] = mapped_column(server_default=text("0"))
    closed: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    over_at: Mapped[datetime | None]


class LeaseReturn(Table):
    """What a holder gave back, so that it counts once."""

    __tablename__ = "lease_return"
    __table_args__ = (Index("lease_return_lease", "lease_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    lease_id: Mapped[str] = mapped_column(ForeignKey("lease.id", ondelete="CASCADE"))
    nanos: Mapped[int]
    closes: Mapped[bool]


class PriceVersion(Table):
    """What a token of a model costs from `starts_at` until the next version does. Never changed."""

    __tablename__ = "price_version"
    __table_args__ = (UniqueConstraint("model", "starts_at"),)

    version: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    input_nanos: Mapped[int]
    cached_input_nanos: Mapped[int]
    output_nanos: Mapped[int]
    starts_at: Mapped[datetime]


class SettledRequest(Table):
    """A request whose usage has taken effect: what makes it take effect once. Kept for a month.

    Beside the records because these are partitioned, and a partitioned table has no unique column
    that its partitions are not cut by.
    """

    __tablename__ = "settled_request"
    __table_args__ = (Index("settled_request_at", "at"),)

    request_id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class UsageRecord(Table):
    """One request as it was charged. Added, never changed; partitioned by the month of its end.

    `charged_nanos` + `lost_nanos` is what was due; `flags` are of `charges.Flag`.
    """

    __tablename__ = "usage_record"
    __table_args__ = (
        Index("usage_record_tenant", "tenant_id", "request_id"),
        Index("usage_record_trace", "trace_id", postgresql_where=text("trace_id <> ''")),
        {"postgresql_partition_by": "RANGE (finished_at)"},
    )

    request_id: Mapped[str] = mapped_column(primary_key=True)
    finished_at: Mapped[datetime] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    account_id: Mapped[str]
    api_key_id: Mapped[str]
    model: Mapped[str]
    served_by: Mapped[str]
    operation: Mapped[str]
    stream: Mapped[bool]
    outcome: Mapped[str]
    input_tokens: Mapped[int]
    cached_input_tokens: Mapped[int]
    output_tokens: Mapped[int]
    estimated: Mapped[bool]
    price_version: Mapped[str]
    lease_id: Mapped[str]
    ceiling_nanos: Mapped[int]
    reported_nanos: Mapped[int]
    charged_nanos: Mapped[int]
    lost_nanos: Mapped[int]
    transfer_id: Mapped[str]
    flags: Mapped[int] = mapped_column(SmallInteger)
    first_token_ms: Mapped[int]
    total_ms: Mapped[int]
    trace_id: Mapped[str] = mapped_column(server_default="")
    """Where the trace was kept; otherwise it is the one that the request's id names."""


class _Rollup:
    """The sums of a tenant's records of one model in one span of time."""

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    starts_at: Mapped[datetime] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    requests: Mapped[int]
    failed: Mapped[int]
    flagged: Mapped[int]
    input_tokens: Mapped[int]
    cached_input_tokens: Mapped[int]
    output_tokens: Mapped[int]
    charged_nanos: Mapped[int]
    total_ms: Mapped[int]


class UsageHour(_Rollup, Table):
    """Sums by hour, UTC."""

    __tablename__ = "usage_hour"


class UsageDay(_Rollup, Table):
    """Sums by day, UTC."""

    __tablename__ = "usage_day"


class Job(Table):
    """When a job is to be done next, by whichever replica comes first."""

    __tablename__ = "job"

    name: Mapped[str] = mapped_column(primary_key=True)
    due_at: Mapped[datetime]


events.attach(Table.metadata)
