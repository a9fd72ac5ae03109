"""Creates the tables of accounts and of the credentials by which they are known."""

from alembic import op

from vlinders_kit import events

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE tenant (
            id text PRIMARY KEY,
            name text NOT NULL,
            plan text NOT NULL,
            operator boolean NOT NULL,
            created_at timestamptz NOT NULL
        );
        CREATE UNIQUE INDEX tenant_operator ON tenant (operator) WHERE operator;

        CREATE TABLE account (
            id text PRIMARY KEY,
            tenant_id text NOT NULL REFERENCES tenant,
            email text NOT NULL UNIQUE CHECK (email = lower(email)),
            username text NOT NULL UNIQUE CHECK (username = lower(username)),
            password_hash text NOT NULL,
            full_name text NOT NULL,
            avatar_url text,
            email_verified boolean NOT NULL,
            roles smallint[] NOT NULL CHECK (roles <> '{}'),
            disabled_at timestamptz,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL
        );
        CREATE INDEX ix_account_tenant_id ON account (tenant_id);

        CREATE TABLE session (
            id text PRIMARY KEY,
            account_id text NOT NULL REFERENCES account,
            client_address text NOT NULL,
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            revoked_at timestamptz
        );
        CREATE INDEX ix_session_account_id ON session (account_id);
        CREATE INDEX ix_session_expires_at ON session (expires_at);

        CREATE TABLE refresh_token (
            sha256 bytea PRIMARY KEY CHECK (length(sha256) = 32),
            session_id text NOT NULL REFERENCES session ON DELETE CASCADE,
            created_at timestamptz NOT NULL
        );
        CREATE INDEX ix_refresh_token_session_id ON refresh_token (session_id);

        CREATE TABLE attempts (
            subject bytea PRIMARY KEY CHECK (length(subject) = 32),
            failed_at timestamptz[] NOT NULL,
            begun_at timestamptz[] NOT NULL,
            last_at timestamptz NOT NULL
        );
        CREATE INDEX ix_attempts_last_at ON attempts (last_at);

        CREATE TABLE api_key (
            id text PRIMARY KEY,
            account_id text NOT NULL REFERENCES account,
            name text NOT NULL,
            sha256 bytea NOT NULL UNIQUE CHECK (length(sha256) = 32),
            key_prefix text NOT NULL,
            permissions text[] NOT NULL CHECK (permissions <> '{}'),
            created_at timestamptz NOT NULL,
            expires_at timestamptz,
            last_used_at timestamptz,
            revoked_at timestamptz
        );
        CREATE INDEX api_key_listed ON api_key (account_id, id) WHERE revoked_at IS NULL;

        CREATE TABLE signing_key (
            kid text PRIMARY KEY,
            public_key jsonb NOT NULL,
            sealed_private_key bytea NOT NULL,
            created_at timestamptz NOT NULL,
            signs_from timestamptz NOT NULL
        );
    """)
    op.execute(events.TABLES_SQL)
