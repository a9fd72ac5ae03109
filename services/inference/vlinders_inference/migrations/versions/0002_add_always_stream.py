"""Add whether a provider is always asked to stream."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE provider ADD always_stream boolean NOT NULL DEFAULT false")
    op.execute("ALTER TABLE provider ALTER always_stream DROP DEFAULT")
