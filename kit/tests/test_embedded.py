"""The embedded servers keep their data, want their password, and leave nothing behind."""

import os
import select
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import redis

from vlinders_kit.embedded.postgres import Postgres, WrongMajor
from vlinders_kit.embedded.programs import (
    NotServing,
    Program,
    await_serving,
    free_port,
    leashed,
    running,
    start,
)
from vlinders_kit.embedded.valkey import Valkey


@pytest.fixture
def server(tmp_path: Path) -> Postgres:
    return Postgres(tmp_path / "postgres", free_port(), "secret", {"fsync": "off"})


def test_postgres_finds_its_data_again(server: Postgres, tmp_path: Path) -> None:
    for statement in ("CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (1)"):
        server.prepare()
        with (
            running(server.program(), log=tmp_path / "log"),
            psycopg.connect(server.url("postgres"), autocommit=True) as connection,
        ):
            connection.execute(statement.encode())


def test_postgres_wants_the_password(server: Postgres, tmp_path: Path) -> None:
    server.prepare()
    with (
        running(server.program(), log=tmp_path / "log"),
        pytest.raises(psycopg.OperationalError, match="password authentication failed"),
    ):
        psycopg.connect(server.url("postgres", password="wrong"))


def test_a_backup_of_a_running_postgres_starts_as_it_was(server: Postgres, tmp_path: Path) -> None:
    server.prepare()
    with (
        running(server.program(), log=tmp_path / "log"),
        psycopg.connect(server.url("postgres"), autocommit=True) as connection,
    ):
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
        server.back_up(tmp_path / "backup")
        connection.execute("INSERT INTO kept VALUES (2)")
    restored = replace(server, data=tmp_path / "backup", port=free_port())
    restored.prepare()
    with (
        running(restored.program(), log=tmp_path / "log"),
        psycopg.connect(restored.url("postgres")) as connection,
    ):
        assert connection.execute("SELECT id FROM kept").fetchall() == [(1,)]


def test_postgres_runs_where_only_its_owner_may_go(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    server = Postgres(home / "var" / "postgres", free_port(), "secret", {"fsync": "off"})
    program = server.program()
    server.prepare()

    with running(program, log=tmp_path / "log"):
        assert home.stat().st_mode & 0o777 == 0o700


def test_postgres_ends_the_server_that_was_left_over(server: Postgres, tmp_path: Path) -> None:
    server.prepare()
    program = server.program()
    setpriv, _, _, *rest = program.command
    left_over = start(replace(program, command=[setpriv, *rest]), tmp_path / "log")
    await_serving(program, left_over, log=tmp_path / "log")

    server.prepare()

    assert left_over.wait(10) == 0


def test_postgres_forgets_the_pid_of_another_program(server: Postgres, tmp_path: Path) -> None:
    server.prepare()
    (server.data / "postmaster.pid").write_text(f"{os.getpid()}\n")
    server.prepare()

    with running(server.program(), log=tmp_path / "log"):
        pass


def test_postgres_refuses_data_of_another_major(server: Postgres) -> None:
    server.data.mkdir()
    (server.data / "PG_VERSION").write_text("16\n")

    with pytest.raises(WrongMajor, match="is of PostgreSQL 16"):
        server.prepare()


def test_valkey_finds_its_data_again(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "valkey", free_port(), "secret")
    found = []
    for value in ("first", "second"):
        server.prepare()
        with (
            running(server.program(), log=tmp_path / "log"),
            redis.Redis.from_url(server.url) as client,
        ):
            found.append(client.get("key"))
            client.set("key", value)

    assert found == [None, b"first"]


def test_valkey_wants_the_password(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "valkey", free_port(), "secret")
    server.prepare()
    with (
        running(server.program(), log=tmp_path / "log"),
        redis.Redis(port=server.port) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.get("key")


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    program = Program("sample", ["sh", "-c", "echo no such folder; exit 3"], lambda: False)

    with (
        pytest.raises(NotServing, match=r"sample ended \(3\)\.\nno such folder"),
        running(program, log=tmp_path / "log"),
    ):
        pass


def test_a_child_ends_with_its_parent() -> None:
    child_of_its_own = leashed(["sh", "-c", "echo $$; exec sleep 600"])
    code = f"import subprocess; subprocess.run({child_of_its_own!r})"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = os.pidfd_open(int(parent.stdout.readline()))

    parent.kill()
    parent.communicate()

    assert select.select([child], [], [], 10)[0], "the child lives"
    os.close(child)
