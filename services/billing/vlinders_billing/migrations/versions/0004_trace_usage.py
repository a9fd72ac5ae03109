"""The trace that a request was part of, where that is not the one its id names."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE usage_record ADD COLUMN trace_id text NOT NULL DEFAULT ''")
    op.execute("CREATE INDEX usage_record_trace ON usage_record (trace_id) WHERE trace_id <> ''")
