"""Prices and usage: versions, records cut by month, and their sums by hour and by day."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE price_version (
            version            text PRIMARY KEY,
            model              text NOT NULL,
            input_nanos        bigint NOT NULL,
            cached_input_nanos bigint NOT NULL,
            output_nanos       bigint NOT NULL,
            starts_at          timestamptz NOT NULL,
            UNIQUE (model, starts_at)
        )
    """)
    op.execute("CREATE TABLE settled_request (request_id text PRIMARY KEY)")
    op.execute("""
        CREATE TABLE usage_record (
            request_id          text NOT NULL,
            finished_at         timestamptz NOT NULL,
            tenant_id           text NOT NULL,
            account_id          text NOT NULL,
            api_key_id          text NOT NULL,
            model               text NOT NULL,
            served_by           text NOT NULL,
            operation           text NOT NULL,
            stream              boolean NOT NULL,
            outcome             text NOT NULL,
            input_tokens        bigint NOT NULL,
            cached_input_tokens bigint NOT NULL,
            output_tokens       bigint NOT NULL,
            estimated           boolean NOT NULL,
            price_version       text NOT NULL,
            lease_id            text NOT NULL,
            ceiling_nanos       bigint NOT NULL,
            reported_nanos      bigint NOT NULL,
            charged_nanos       bigint NOT NULL,
            lost_nanos          bigint NOT NULL,
            transfer_id         text NOT NULL,
            flags               smallint NOT NULL,
            first_token_ms      bigint NOT NULL,
            total_ms            bigint NOT NULL,
            PRIMARY KEY (request_id, finished_at)
        ) PARTITION BY RANGE (finished_at)
    """)
    op.execute("CREATE INDEX usage_record_tenant ON usage_record (tenant_id, request_id)")
    for table in ("usage_hour", "usage_day"):
        op.execute(f"""
            CREATE TABLE {table} (
                tenant_id           text NOT NULL,
                starts_at           timestamptz NOT NULL,
                model               text NOT NULL,
                requests            bigint NOT NULL,
                failed              bigint NOT NULL,
                flagged             bigint NOT NULL,
                input_tokens        bigint NOT NULL,
                cached_input_tokens bigint NOT NULL,
                output_tokens       bigint NOT NULL,
                charged_nanos       bigint NOT NULL,
                total_ms            bigint NOT NULL,
                PRIMARY KEY (tenant_id, starts_at, model)
            )
        """)
