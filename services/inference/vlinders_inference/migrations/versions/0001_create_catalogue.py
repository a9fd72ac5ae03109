"""The catalogue: models, providers with their sealed keys, and who serves what."""

from alembic import op

from vlinders_kit import events

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(events.TABLES_SQL)
    op.execute("""
        CREATE TABLE model (
            id text PRIMARY KEY,
            owned_by text NOT NULL,
            worker_model text,
            context_length bigint NOT NULL CHECK (context_length > 0),
            max_tokens bigint NOT NULL CHECK (max_tokens >= 0),
            embeddings boolean NOT NULL,
            function_calling boolean NOT NULL,
            active boolean NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        );

        CREATE TABLE provider (
            name text PRIMARY KEY,
            base_url text NOT NULL,
            active boolean NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        );

        CREATE TABLE provider_key (
            provider text NOT NULL REFERENCES provider,
            position integer NOT NULL,
            sealed bytea NOT NULL,
            PRIMARY KEY (provider, position)
        );

        CREATE TABLE offer (
            model text NOT NULL REFERENCES model,
            provider text NOT NULL REFERENCES provider,
            upstream text NOT NULL,
            limit_field text,
            priority integer NOT NULL,
            PRIMARY KEY (model, provider)
        );
    """)
