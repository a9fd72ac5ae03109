"""The events of all topics, and how far each group has come."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
        -- One number for all topics: within a topic it rises in the order of commits, because one
        -- sender at a time writes to a topic.
        CREATE TABLE event (
            topic text NOT NULL,
            partition smallint NOT NULL,
            number bigint GENERATED ALWAYS AS IDENTITY,
            id uuid NOT NULL,
            key text NOT NULL,
            type text NOT NULL,
            body bytea NOT NULL,
            error text NOT NULL,
            at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (topic, partition, number)
        );
        CREATE INDEX event_at ON event (at);

        CREATE TABLE cursor (
            consumer_group text NOT NULL,
            topic text NOT NULL,
            partition smallint NOT NULL,
            number bigint NOT NULL,
            PRIMARY KEY (consumer_group, topic, partition)
        );
    """)
