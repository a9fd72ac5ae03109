"""When a request was settled, so that this can be forgotten once nobody can tell it again."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("ALTER TABLE settled_request ADD COLUMN at timestamptz NOT NULL DEFAULT now()")
    op.execute("CREATE INDEX settled_request_at ON settled_request (at)")
