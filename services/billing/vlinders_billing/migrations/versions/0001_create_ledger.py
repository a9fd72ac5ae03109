"""The ledger: accounts, transfers and their postings; and the tables that events go and come by."""

from alembic import op

from vlinders_kit import events

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(events.TABLES_SQL)
    op.execute("""
        CREATE TABLE account (
            id            text PRIMARY KEY,
            tenant_id     text UNIQUE,
            balance_nanos bigint NOT NULL DEFAULT 0,
            held_nanos    bigint NOT NULL DEFAULT 0 CHECK (held_nanos >= 0),
            postings      bigint NOT NULL DEFAULT 0,
            head          bytea NOT NULL DEFAULT ''::bytea,
            created_at    timestamptz NOT NULL DEFAULT now(),
            CHECK (tenant_id IS NULL OR balance_nanos >= held_nanos)
        )
    """)
    op.execute("""
        CREATE TABLE transfer (
            id           text PRIMARY KEY,
            kind         text NOT NULL,
            source_id    text NOT NULL REFERENCES account,
            target_id    text NOT NULL REFERENCES account,
            amount_nanos bigint NOT NULL CHECK (amount_nanos > 0),
            created_at   timestamptz NOT NULL DEFAULT now(),
            CHECK (source_id <> target_id)
        )
    """)
    op.execute("""
        CREATE TABLE posting (
            account_id    text NOT NULL REFERENCES account,
            seq           bigint NOT NULL,
            transfer_id   text NOT NULL REFERENCES transfer,
            amount_nanos  bigint NOT NULL,
            balance_nanos bigint NOT NULL,
            hash          bytea NOT NULL,
            PRIMARY KEY (account_id, seq),
            UNIQUE (transfer_id, account_id)
        )
    """)
    op.execute("INSERT INTO account (id) VALUES ('revenue'), ('promotions'), ('loss')")
    _freeze("transfer", "posting")


def _freeze(*tables: str) -> None:
    """Has the database itself refuse to change what is only ever added."""
    op.execute("""
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME;
        END $$
    """)
    for table in tables:
        op.execute(f"""
            CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
        """)
