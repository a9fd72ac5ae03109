"""Bodies are not compressed, and stay in their row where they fit: they are read once, and soon."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE event ALTER COLUMN body SET STORAGE EXTERNAL")
    op.execute("ALTER TABLE event SET (toast_tuple_target = 8160)")
