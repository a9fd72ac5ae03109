"""Adds what five dialects need of identity: names, status, token families, organizations, links."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE account
            DROP CONSTRAINT account_username_key,
            DROP CONSTRAINT account_username_check,
            ADD number bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            ADD status smallint NOT NULL DEFAULT 1 CHECK (status IN (1, 2, 3)),
            ADD status_reason text,
            ADD last_login_at timestamptz;
        CREATE UNIQUE INDEX account_username ON account (lower(username));
        UPDATE account SET status = 2 WHERE disabled_at IS NOT NULL;
        ALTER TABLE account ALTER status DROP DEFAULT, DROP disabled_at;

        ALTER TABLE session ADD dialect text NOT NULL DEFAULT 'vlinders';
        ALTER TABLE session ALTER dialect DROP DEFAULT;

        ALTER TABLE refresh_token
            ADD traded_at timestamptz,
            ADD sealed_successor bytea;
        CREATE INDEX refresh_token_sealed ON refresh_token (traded_at)
            WHERE sealed_successor IS NOT NULL;

        ALTER TABLE api_key
            ADD dialect text NOT NULL DEFAULT 'vlinders',
            ADD hourly_limit bigint CHECK (hourly_limit > 0);
        ALTER TABLE api_key ALTER dialect DROP DEFAULT;

        CREATE TABLE organization (
            id text PRIMARY KEY,
            tenant_id text NOT NULL REFERENCES tenant,
            name text NOT NULL,
            description text,
            created_at timestamptz NOT NULL
        );
        CREATE INDEX ix_organization_tenant_id ON organization (tenant_id);

        CREATE TABLE membership (
            id text PRIMARY KEY,
            organization_id text NOT NULL REFERENCES organization ON DELETE CASCADE,
            account_id text NOT NULL REFERENCES account,
            role smallint NOT NULL CHECK (role IN (1, 2)),
            joined_at timestamptz NOT NULL
        );
        CREATE UNIQUE INDEX membership_account ON membership (organization_id, account_id);
        CREATE INDEX membership_listed ON membership (organization_id, id);
        CREATE INDEX ix_membership_account_id ON membership (account_id);

        CREATE TABLE invitation (
            id text PRIMARY KEY,
            tenant_id text NOT NULL REFERENCES tenant,
            email text NOT NULL CHECK (email = lower(email)),
            role smallint NOT NULL,
            invited_by text NOT NULL REFERENCES account,
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL
        );
        CREATE UNIQUE INDEX invitation_email ON invitation (tenant_id, email);
        CREATE INDEX ix_invitation_expires_at ON invitation (expires_at);

        CREATE TABLE link (
            id text PRIMARY KEY,
            purpose text NOT NULL,
            subject_id text NOT NULL,
            email text NOT NULL,
            password_sha256 bytea CHECK (length(password_sha256) = 32),
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL
        );
        CREATE INDEX link_subject ON link (subject_id, purpose);
        CREATE INDEX ix_link_expires_at ON link (expires_at);

        CREATE TABLE mail (
            id text PRIMARY KEY,
            purpose text NOT NULL,
            email text NOT NULL CHECK (email = lower(email)),
            subject_id text,
            asked_by text,
            link_id text,
            created_at timestamptz NOT NULL,
            due_at timestamptz,
            tries smallint NOT NULL
        );
        CREATE INDEX mail_due ON mail (due_at) WHERE due_at IS NOT NULL;
        CREATE INDEX mail_email ON mail (email, created_at);
        CREATE INDEX mail_asked_by ON mail (asked_by, created_at);
        CREATE INDEX mail_created_at ON mail (created_at);

        CREATE TABLE oauth_identity (
            provider text NOT NULL,
            subject text NOT NULL,
            account_id text NOT NULL REFERENCES account,
            created_at timestamptz NOT NULL,
            PRIMARY KEY (provider, subject)
        );
        CREATE INDEX ix_oauth_identity_account_id ON oauth_identity (account_id);

        CREATE TABLE oauth_state (
            sha256 bytea PRIMARY KEY CHECK (length(sha256) = 32),
            provider text NOT NULL,
            browser_sha256 bytea NOT NULL CHECK (length(browser_sha256) = 32),
            sealed_verifier bytea NOT NULL,
            nonce text NOT NULL,
            dialect text NOT NULL,
            expires_at timestamptz NOT NULL
        );
        CREATE INDEX ix_oauth_state_expires_at ON oauth_state (expires_at);
    """)
