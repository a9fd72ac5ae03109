"""Migrations run once, whoever runs them, and the mapped tables are held against what they made."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Column, MetaData, Table, Text
from sqlalchemy.ext.asyncio import create_async_engine

from vlinders_kit.migrations import drift, main, migrate
from vlinders_kit.testing import Cluster

FIRST = """
from alembic import op
revision, down_revision = "0001", None
def upgrade():
    op.execute("CREATE TABLE thing (id text PRIMARY KEY)")
"""
SECOND = """
from alembic import op
revision, down_revision = "0002", "0001"
def upgrade():
    op.execute("ALTER TABLE thing ADD COLUMN name text NOT NULL")
"""


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the revisions of a package `vlinders_sample`, with the first one in it."""
    folder = tmp_path / "vlinders_sample" / "migrations" / "versions"
    folder.mkdir(parents=True)
    (tmp_path / "vlinders_sample" / "__init__.py").touch()
    (folder / "0001_create_things.py").write_text(FIRST)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vlinders_sample", raising=False)
    return folder


def columns(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'thing'"
        )
        return sorted(name for (name,) in rows)


def test_runners_at_the_same_time_migrate_once(postgres: Cluster, versions: Path) -> None:
    with postgres.database() as url:
        environment = {
            **os.environ,
            "PYTHONPATH": str(versions.parents[2]),
            "VLINDERS_SAMPLE_DATABASE_URL": url,
        }
        command = [sys.executable, "-m", "vlinders_kit.migrations", "vlinders_sample"]
        runners = [subprocess.Popen(command, env=environment) for _ in range(2)]

        assert [runner.wait() for runner in runners] == [0, 0]
        assert columns(url) == ["id"]


def test_a_later_revision_is_added_to_what_is_there(postgres: Cluster, versions: Path) -> None:
    with postgres.database() as url:
        migrate(url, "vlinders_sample")
        (versions / "0002_name_things.py").write_text(SECOND)
        migrate(url, "vlinders_sample")

        assert columns(url) == ["id", "name"]


def test_a_revision_that_fails_leaves_nothing(postgres: Cluster, versions: Path) -> None:
    (versions / "0002_name_things.py").write_text(SECOND.replace("thing ADD", "nothing ADD"))
    with postgres.database() as url:
        with pytest.raises(Exception, match="nothing"):
            migrate(url, "vlinders_sample")

        assert columns(url) == []


@pytest.mark.usefixtures("versions")
async def test_drift_tells_what_is_mapped_and_not_migrated(postgres: Cluster) -> None:
    mapped = MetaData()
    table = Table("thing", mapped, Column("id", Text, primary_key=True))
    with postgres.database() as url:
        migrate(url, "vlinders_sample")
        engine = create_async_engine(url.replace("://", "+psycopg://", 1))
        agreed = await drift(engine, mapped)
        table.append_column(Column("name", Text, nullable=False))
        differed = await drift(engine, mapped)
        await engine.dispose()

    assert agreed == []
    assert [(what, column.name) for what, _, _, column in differed] == [("add_column", "name")]


def test_the_command_says_which_variable_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VLINDERS_SAMPLE_DATABASE_URL", raising=False)

    assert main(["vlinders_sample"]) == 2
    assert "VLINDERS_SAMPLE_DATABASE_URL is not set" in capsys.readouterr().err
