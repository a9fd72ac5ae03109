"""The folder of a stack: one supervisor's at a time, and what it keeps there is private."""

import json
import os
import socket
import stat
import subprocess
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from vlinders_embedded import databases, folder, logfiles
from vlinders_embedded.minted import sealing_key_file, secrets_of
from vlinders_embedded.ports import PortTaken, ports_of, require_free
from vlinders_kit import api_keys
from vlinders_kit.testing import Cluster


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with (
        folder.held(tmp_path),
        pytest.raises(folder.InUse, match=rf"a stack runs in .*pid {os.getpid()}.*make down"),
        folder.held(tmp_path),
    ):
        pass

    assert folder.holder(tmp_path) is None


def test_what_a_killed_supervisor_left_is_ended_and_nothing_else(tmp_path: Path) -> None:
    ours = {folder.OF_STACK: str(tmp_path / "var")}
    others = {folder.OF_STACK: str(tmp_path / "var2")}
    left = [subprocess.Popen(["sleep", "600"], env=ours) for _ in range(2)]
    other = subprocess.Popen(["sleep", "600"], env=others)

    ended = folder.end_left_over(tmp_path / "var")

    assert ended == 2
    assert [process.wait() for process in left] == [-15, -15]
    assert other.poll() is None
    other.kill()
    other.wait()


def test_secrets_stay_the_same_and_are_private(tmp_path: Path) -> None:
    first = secrets_of(tmp_path)
    key = sealing_key_file(tmp_path, "auth").read_text()

    assert secrets_of(tmp_path) == first
    assert sealing_key_file(tmp_path, "auth").read_text() == key
    assert api_keys.is_well_formed(first.api_key)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_a_password_that_is_given_is_kept(tmp_path: Path) -> None:
    secrets_of(tmp_path)
    secrets_of(tmp_path, admin_password="chosen by hand")

    assert secrets_of(tmp_path).admin_password == "chosen by hand"


def test_a_folder_from_before_gets_the_secrets_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text('{"databases": {"auth": "old"}, "postgres": "older"}')

    secrets = secrets_of(tmp_path)

    assert (secrets.databases["auth"], secrets.postgres) == ("old", "older")
    assert secrets.databases["billing"]
    assert secrets_of(tmp_path) == secrets


def test_ports_stay_the_same_until_somebody_takes_one(tmp_path: Path) -> None:
    with ExitStack() as claims:
        first = ports_of(tmp_path, ["auth-1", "auth-2"], claims)
    with socket.create_server(("127.0.0.1", first["auth-1"])), ExitStack() as claims:
        second = ports_of(tmp_path, ["auth-1", "auth-2", "auth-3"], claims)
    with ExitStack() as claims:
        third = ports_of(tmp_path, ["auth-1"], claims)

    assert len({first["auth-1"], *second.values()}) == 4
    assert second["auth-2"] == first["auth-2"]
    assert third["auth-1"] == second["auth-1"]


def test_no_stack_takes_a_port_that_another_has_chosen(tmp_path: Path) -> None:
    """Though nobody listens there yet."""
    (tmp_path / "other").mkdir()
    with ExitStack() as claims, ExitStack() as others:
        first = ports_of(tmp_path, ["auth-1"], claims)
        (tmp_path / "other" / "ports.json").write_text(json.dumps(first))

        assert ports_of(tmp_path / "other", ["auth-1"], others) != first


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port} is taken.*PORT="):
            require_free(port)


def test_a_database_opens_for_its_owner_alone(postgres: Cluster) -> None:
    passwords = {"door_one": "first", "door_two": "second"}
    databases.ensure(postgres.url, passwords)
    databases.ensure(postgres.url, passwords | {"door_one": "another"})
    place = postgres.url.rpartition("@")[2].rpartition("/")[0]

    with psycopg.connect(f"postgresql://door_one:another@{place}/door_one") as connection:
        connection.execute("CREATE TABLE thing ()")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(f"postgresql://door_one:another@{place}/door_two")


def test_a_log_that_has_grown_is_put_away_while_it_is_written(tmp_path: Path) -> None:
    log = tmp_path / "auth-1.log"
    with log.open("a") as writer:
        writer.write("old\n" * 100)
        writer.flush()
        logfiles.turn_over(tmp_path, largest=100)
        writer.write("new\n")

    assert log.read_text() == "new\n"
    assert (tmp_path / "auth-1.log.old").read_text() == "old\n" * 100
