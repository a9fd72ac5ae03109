"""Credit leases: money of wallets that is set aside, and what holders gave back of it."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE lease (
            id             text PRIMARY KEY,
            account_id     text NOT NULL REFERENCES account,
            holder         text NOT NULL,
            least_nanos    bigint NOT NULL,
            wanted_nanos   bigint NOT NULL,
            granted_nanos  bigint NOT NULL,
            open_nanos     bigint NOT NULL,
            used_nanos     bigint NOT NULL DEFAULT 0,
            returned_nanos bigint NOT NULL DEFAULT 0,
            closed         boolean NOT NULL DEFAULT false,
            created_at     timestamptz NOT NULL DEFAULT now(),
            expires_at     timestamptz NOT NULL,
            over_at        timestamptz,
            CHECK (open_nanos >= 0 AND used_nanos >= 0 AND returned_nanos >= 0),
            CHECK (granted_nanos = open_nanos + used_nanos + returned_nanos),
            CHECK (over_at IS NULL OR open_nanos = 0)
        )
    """)
    op.execute("CREATE INDEX lease_open ON lease (account_id) WHERE over_at IS NULL")
    op.execute("CREATE INDEX lease_expiring ON lease (expires_at) WHERE over_at IS NULL")
    op.execute("CREATE INDEX lease_over ON lease (over_at)")
    op.execute("""
        CREATE TABLE lease_return (
            id       text PRIMARY KEY,
            lease_id text NOT NULL REFERENCES lease ON DELETE CASCADE,
            nanos    bigint NOT NULL,
            closes   boolean NOT NULL
        )
    """)
    op.execute("CREATE INDEX lease_return_lease ON lease_return (lease_id)")
    op.execute("CREATE TABLE job (name text PRIMARY KEY, due_at timestamptz NOT NULL)")
