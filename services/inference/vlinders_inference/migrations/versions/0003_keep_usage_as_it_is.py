"""Usage is not compressed on its way out, and stays in its row where it fits: it is gone soon."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("ALTER TABLE outbox ALTER COLUMN body SET STORAGE EXTERNAL")
    op.execute("ALTER TABLE outbox SET (toast_tuple_target = 8160)")
