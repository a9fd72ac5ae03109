"""Migrations: a service's Alembic revisions, forward only, by one runner at a time.

`python -m vlinders_kit.migrations vlinders_auth vlinders_billing` migrates the database of each
named package, whose URL is in `VLINDERS_AUTH_DATABASE_URL` and so on.
"""

import os
import sys
from collections.abc import Sequence
from importlib import resources
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

_LOCK = 0x566C696E64657273
"""Key of the advisory lock, in each database its own: "Vlinders"."""


def migrate(url: str, package: str) -> None:
    """Brings the database at `url` (`postgresql://…`) to the last revision of `package`.

    All pending revisions are one transaction. A second runner waits for the first and then finds
    nothing to do.
    """
    migrations = resources.files(package) / "migrations"
    script = ScriptDirectory(str(migrations), version_locations=[str(migrations / "versions")])
    engine = create_engine(
        url.replace("postgresql://", "postgresql+psycopg://", 1),
        poolclass=NullPool,
        hide_parameters=True,
    )

    def pending(revision: Any, context: MigrationContext) -> list[Any]:
        return script._upgrade_revs("head", revision)

    with (
        engine.begin() as connection,
        EnvironmentContext(Config(), script, fn=pending, destination_rev="head") as environment,
    ):
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        environment.configure(connection=connection)
        environment.run_migrations()


async def drift(engine: AsyncEngine, metadata: MetaData) -> list[Any]:
    """What Alembic would change to have the database be what `metadata` maps; empty: they agree."""

    def compare(connection: Connection) -> list[Any]:
        options = {"compare_type": True, "compare_server_default": True}
        return list(
            compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        )

    async with engine.connect() as connection:
        return await connection.run_sync(compare)


def main(packages: Sequence[str]) -> int:
    """Migrates each package in turn; answers 2 where one's database is not named."""
    for package in packages:
        variable = f"{package.upper().replace('.', '_')}_DATABASE_URL"
        if not (url := os.environ.get(variable)):
            sys.stderr.write(f"{variable} is not set: the database that {package} owns\n")
            return 2
        migrate(url, package)
        sys.stdout.write(f"{package}: migrated\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
