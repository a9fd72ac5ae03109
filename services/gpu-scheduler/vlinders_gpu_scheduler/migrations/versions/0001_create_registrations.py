"""Registrations of workers with their epochs, owners of resources, and the tables of events."""

from alembic import op

from vlinders_kit import events

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(events.TABLES_SQL)
    op.execute("CREATE SEQUENCE worker_epoch")
    op.execute("""
        CREATE TABLE registration (
            id            text PRIMARY KEY,
            boot_id       text NOT NULL,
            epoch         bigint NOT NULL UNIQUE,
            address       text NOT NULL,
            host_name     text NOT NULL,
            agent_version text NOT NULL,
            inventory     bytea NOT NULL,
            pretended     boolean NOT NULL,
            state         text NOT NULL
                CHECK (state IN ('REGISTERING', 'ONLINE', 'SUSPECT', 'DRAINING', 'OFFLINE')),
            state_since   timestamptz NOT NULL,
            drained       boolean NOT NULL DEFAULT false,
            registered_at timestamptz NOT NULL DEFAULT now()
        )
    """)
    op.execute("CREATE INDEX registration_living ON registration (id) WHERE state <> 'OFFLINE'")
    op.execute("""
        CREATE TABLE owner (
            resource text PRIMARY KEY,
            holder   text NOT NULL,
            term     bigint NOT NULL,
            until    timestamptz NOT NULL
        )
    """)
